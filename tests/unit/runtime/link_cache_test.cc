#include "runtime/link_cache.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace gearshift::runtime {
namespace {

namespace fs = std::filesystem;

class LinkCacheTest : public ::testing::Test {
 protected:
  LinkCacheTest() {
    std::string pattern = (fs::temp_directory_path() / "gearshift-cache-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    ::setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  }
  ~LinkCacheTest() override {
    ::unsetenv("XDG_CACHE_HOME");
    fs::remove_all(folder_);
  }

  static group::LinkSpeeds some_speeds() {
    group::LinkSpeeds speeds;
    speeds.local = {.latency = 1.0 / 3, .seconds_per_byte = 1e-10 / 7};
    speeds.remote = {.latency = 0.1, .seconds_per_byte = 2e-9};
    speeds.between.assign(4, {.latency = 3.3e-5, .seconds_per_byte = 1.1e-8});
    speeds.reduce_seconds_per_byte = 1e-10;
    speeds.measured = true;
    return speeds;
  }

  static std::string contents(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void overwrite(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }

  fs::path folder_;
};

TEST_F(LinkCacheTest, ReturnsWhatWasStoredToTheLastBit) {
  const LinkCache cache({"a", "b"});
  EXPECT_FALSE(cache.load());
  cache.store(some_speeds());
  EXPECT_EQ(cache.load(), some_speeds());
  EXPECT_EQ(LinkCache({"a", "b"}).load(), some_speeds());
  for (const auto& entry : fs::directory_iterator(folder_ / "gearshift")) {
    EXPECT_EQ(entry.path(), cache.path()) << "nothing else is left behind";
  }
}

TEST_F(LinkCacheTest, KnowsNothingOfOtherProcesses) {
  const LinkCache cache({"a", "b"});
  cache.store(some_speeds());
  const LinkCache other({"a", "c"});
  EXPECT_FALSE(other.load());
  fs::copy(cache.path(), other.path());
  EXPECT_FALSE(other.load()) << "a file under a wrong name";
}

TEST_F(LinkCacheTest, IgnoresDamagedFiles) {
  const LinkCache cache({"a", "b"});
  cache.store(some_speeds());
  const std::string good = contents(cache.path());
  for (std::size_t i = 0; i < good.size(); i += 3) {
    std::string bad = good;
    bad[i] = bad[i] == '1' ? '2' : '1';
    overwrite(cache.path(), bad);
    EXPECT_FALSE(cache.load()) << "byte " << i;
    overwrite(cache.path(), good.substr(0, i));
    EXPECT_FALSE(cache.load()) << "cut at " << i;
  }
  overwrite(cache.path(), good);
  EXPECT_TRUE(cache.load());
}

TEST_F(LinkCacheTest, ForgetsAfterADay) {
  const LinkCache cache({"a"});
  cache.store(some_speeds());
  fs::last_write_time(cache.path(), fs::file_time_type::clock::now() - std::chrono::hours(25));
  EXPECT_FALSE(cache.load());
}

TEST_F(LinkCacheTest, RemovesWhatIsTooOldAndItsOwn) {
  const LinkCache old({"a"});
  old.store(some_speeds());
  const fs::path foreign = fs::path(old.path()).parent_path() / "notes";
  overwrite(foreign, "not a cache");
  for (const fs::path& path : {fs::path(old.path()), foreign}) {
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(25));
  }
  LinkCache({"b"}).store(some_speeds());
  EXPECT_FALSE(fs::exists(old.path()));
  EXPECT_TRUE(fs::exists(foreign));
  EXPECT_TRUE(LinkCache({"b"}).load());
}

/// `process_identity` in a network namespace that ends with this call; empty: not allowed to.
std::string identity_in_a_new_network() {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) return "";
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNET) == 0) {
      const std::string found = process_identity("10.0.0.1", {"tcp"});
      static_cast<void>(!::write(ends[1], found.data(), found.size()));
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  std::array<char, 512> text{};
  const ssize_t size = ::read(ends[0], text.data(), text.size());
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

TEST(ProcessIdentity, TellsANetworkFromTheNextOneWithTheSameAddress) {
  const std::string here = process_identity("10.0.0.1", {"tcp"});
  EXPECT_EQ(here, process_identity("10.0.0.1", {"tcp"}));
  EXPECT_NE(here, process_identity("10.0.0.2", {"tcp"}));
  EXPECT_NE(here, process_identity("10.0.0.1", {"shm", "tcp"}));
  const std::string first = identity_in_a_new_network();
  if (first.empty()) GTEST_SKIP() << "network namespaces need root";
  EXPECT_NE(first, here);
  EXPECT_NE(first, identity_in_a_new_network());
}

TEST_F(LinkCacheTest, DoesWithoutAPlace) {
  ::setenv("XDG_CACHE_HOME", (folder_ / "file").c_str(), 1);
  overwrite(folder_ / "file", "in the way");
  const LinkCache cache({"a"});
  cache.store(some_speeds());
  EXPECT_FALSE(cache.load());
}

}  // namespace
}  // namespace gearshift::runtime
