#pragma once

#include <string>

#include "gearshift/group/group.h"

namespace gearshift::ps {

/// The connection to a rank of the group; to the own rank, the process's loopback.
inline transport::Connection& link_to(const group::Group& group, base::Rank rank) {
  return rank == group.rank() ? *group.context()->loopback : group.link(rank);
}

/// A group made by hand may lack what link_to needs.
inline base::Status check_loopback(const group::Group& group) {
  if (group.context()->loopback) return {};
  return base::Error(base::ErrorCode::kInvalidArgument,
                     "the group's context has no loopback connection");
}

}  // namespace gearshift::ps
