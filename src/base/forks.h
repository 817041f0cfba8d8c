#pragma once

namespace gearshift::base {

/// Children of forks (the workers of a DataLoader, say) have this process's descriptors. A socket
/// among them would hold a connection open when this process dies, and its peers would not notice,
/// or a port that whoever is started in its place needs. In children that are forked from now on
/// this descriptor is /dev/null, until `give_to_children`. Those beyond 65535 are left alone.
///
/// Thread-safe, and safe in children. Negative numbers are ignored.
void keep_from_children(int descriptor);
/// Before it is closed, or somebody else's.
void give_to_children(int descriptor);

}  // namespace gearshift::base
