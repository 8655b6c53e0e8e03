#include "mtp/model/open_units.h"

#include <algorithm>

namespace mtp::model {

std::vector<Graph::Scope> open_units(Graph& g, std::span<const Parameter> parameters, const UseOf& use) {
  std::vector<const ParameterGroup*> groups;
  std::vector<Graph::Scope> scopes;
  for (const Parameter& parameter : parameters) {
    ParameterGroup& group = parameter.group();
    if (std::ranges::count(groups, &group) > 0) continue;
    groups.push_back(&group);
    scopes.push_back(g.scope(group, use ? use(group) : Graph::Use::values));
  }
  return scopes;
}

}  // namespace mtp::model
