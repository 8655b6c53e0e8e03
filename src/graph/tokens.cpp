#include "mtp/graph/parameter.h"

namespace mtp {

Tokens Tokens::known(Device& device, std::span<const std::int64_t> ids, std::int64_t fill) {
  Tokens tokens{.ids = {}, .host = {ids.begin(), ids.end()}, .fill = fill};
  if (fill >= 0) tokens.host.push_back(fill);
  tokens.ids = device.from_host(tokens.host);
  return tokens;
}

}  // namespace mtp
