#include "mtp/graph/graph.h"

namespace mtp {

Graph::Scope::Scope(Graph& graph, ParameterGroup& group, Use use) : graph_(&graph), group_(&group), use_(use) {
  if (use != Use::rows) group.acquire();
  place_ = graph.begin_scope(group, use);
}

Graph::Scope::~Scope() {
  if (graph_ == nullptr) return;
  if (use_ != Use::rows) group_->release();
  graph_->end_scope(*group_, use_, place_);
}

}  // namespace mtp
