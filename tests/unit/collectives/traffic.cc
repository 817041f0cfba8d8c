#include "traffic.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

namespace gearshift::collectives::testing {
namespace {

/// Ranks, and what they know of their places when nobody has told them.
struct KeptWorld {
  explicit KeptWorld(int size) : world(inproc_wire(), size) {
    for (int r = 0; r < size; ++r) topologies.push_back(world.at(r).topology());
  }
  void forget_places() {
    for (int r = 0; r < world.size(); ++r) {
      world.at(r).set_topology(topologies[static_cast<std::size_t>(r)]);
    }
  }

  World world;
  std::vector<std::shared_ptr<const group::Topology>> topologies;
};

/// By their size. They end before the program does.
class KeptWorlds final : public ::testing::Environment {
 public:
  KeptWorld& of(int size) {
    auto& world = worlds_[size];
    if (!world) world = std::make_unique<KeptWorld>(size);
    return *world;
  }
  void drop(int size) { worlds_.erase(size); }
  void TearDown() override { worlds_.clear(); }

 private:
  std::map<int, std::unique_ptr<KeptWorld>> worlds_;
};

KeptWorlds* const kept_worlds = [] {
  auto* worlds = new KeptWorlds;  // GoogleTest deletes it
  ::testing::AddGlobalTestEnvironment(worlds);
  return worlds;
}();

}  // namespace

std::vector<Cost> measure(int size, const std::function<void(group::Group&)>& body,
                          const std::vector<int>& host_of) {
  KeptWorld& kept = kept_worlds->of(size);
  World& world = kept.world;
  kept.forget_places();
  if (!host_of.empty()) world.place(host_of);
  std::vector<transport::Traffic> before;
  for (int r = 0; r < size; ++r) before.push_back(world.at(r).traffic());
  world.run(body);
  std::vector<Cost> costs;
  for (int r = 0; r < size; ++r) {
    costs.push_back(cost_of(before[static_cast<std::size_t>(r)], world.at(r).traffic()));
  }
  if (::testing::Test::HasFailure()) kept_worlds->drop(size);
  return costs;
}

}  // namespace gearshift::collectives::testing
