#include "runtime/local_job.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace gearshift::runtime {
namespace {

/// Where the ranks meet that a command, behind which this program's path is written, starts.
std::vector<std::string> meeting_places(const std::string& start, const std::string& rest = "") {
  const std::string own = std::filesystem::read_symlink("/proc/self/exe").string();
  FILE* out = ::popen((start + " '" + own + "'" + rest).c_str(), "r");
  EXPECT_NE(out, nullptr);
  std::vector<std::string> found;
  std::array<char, 4096> line{};
  while (std::fgets(line.data(), line.size(), out) != nullptr) {
    const std::string text = line.data();
    if (text.starts_with("meets in ")) found.push_back(text);
  }
  EXPECT_EQ(::pclose(out), 0);
  return found;
}

/// Runs this program as a rank of a launcher, which the calling process is. The rank prints where
/// it meets the others.
std::string meeting_place(const std::string& directory, const std::string& start) {
  const std::vector<std::string> places = meeting_places(
      "TMPDIR=" + directory + " TEST_IS_RANK=1 " + start, " --gtest_filter=LocalJob.Rank");
  return places.empty() ? "" : places[0];
}

TEST(LocalJob, Rank) {
  if (std::getenv("TEST_IS_RANK") == nullptr) GTEST_SKIP() << "what the other test starts";
  const auto job = open_local_job("mpiexec", "0", {"TEST_RANK", "TEST_IS_RANK"});
  ASSERT_TRUE(job.ok()) << job.error().to_string();
  std::printf("meets in %s %s\n", job->directory.c_str(), job->token.c_str());
}

TEST(LocalJob, RanksMeetThroughWrappers) {
  std::string directory = ::testing::TempDir() + "local-job-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string bare = meeting_place(directory, "TEST_RANK=0 exec");
  EXPECT_FALSE(bare.empty());
  EXPECT_EQ(meeting_place(directory, R"(TEST_RANK=1 exec sh -c '"$@"; exit $?' sh)"), bare);
  EXPECT_EQ(
      meeting_place(directory,
                    R"(TEST_RANK=2 exec sh -c 'sh -c "\"\$@\"; exit \$?" sh "$@"; exit $?' sh)"),
      bare);
  std::filesystem::remove_all(directory);
}

TEST(LocalJob, RanksMeetThoughTheirLauncherHasARankInAnotherJob) {
  std::string directory = ::testing::TempDir() + "local-job-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::string both = R"(
for rank in 0 1; do TEST_IS_RANK=1 TEST_RANK=$rank "$0" --gtest_filter=LocalJob.Rank; done)";
  const std::vector<std::string> places =
      meeting_places("TMPDIR=" + directory + " TEST_RANK=0 exec sh -c '" + both + "'");
  ASSERT_EQ(places.size(), 2U);
  EXPECT_EQ(places[0], places[1]);
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace gearshift::runtime
