#pragma once

#include <functional>
#include <span>
#include <vector>

#include "mtp/graph/graph.h"

namespace mtp::model {

/// Opens every unit that some parameters belong to, in their order. `use`: of a unit; its values where it is not given.
using UseOf = std::function<Graph::Use(const ParameterGroup&)>;
std::vector<Graph::Scope> open_units(Graph& g, std::span<const Parameter> parameters, const UseOf& use = {});

}  // namespace mtp::model
