#include "runtime/local_job.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
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

/// A directory for temporary files of its own, for as long as this lives.
class OwnTemporaryFiles {
 public:
  OwnTemporaryFiles() {
    if (const char* former = std::getenv("TMPDIR")) former_ = former;
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr);
    ::setenv("TMPDIR", directory_.c_str(), 1);
  }
  ~OwnTemporaryFiles() {
    if (former_) {
      ::setenv("TMPDIR", former_->c_str(), 1);
    } else {
      ::unsetenv("TMPDIR");
    }
    std::filesystem::remove_all(directory_);
  }
  OwnTemporaryFiles(const OwnTemporaryFiles&) = delete;
  OwnTemporaryFiles& operator=(const OwnTemporaryFiles&) = delete;
  std::filesystem::path of_user() const {
    return std::filesystem::path(directory_) / ("gearshift-" + std::to_string(::getuid()));
  }

 private:
  std::string directory_ = ::testing::TempDir() + "local-job-XXXXXX";
  std::optional<std::string> former_;
};

/// One of this number was killed over it, or makes its own in another container.
TEST(UserToken, IsMadeBesideTheDraftOfAnotherProcess) {
  const OwnTemporaryFiles files;
  std::filesystem::create_directory(files.of_user());
  std::filesystem::permissions(files.of_user(), std::filesystem::perms::owner_all);
  std::ofstream(files.of_user() / ("token." + std::to_string(::getpid()))) << "half";
  const auto first = user_token();
  ASSERT_TRUE(first.ok()) << first.error().to_string();
  EXPECT_EQ(first->size(), 64U);
  const auto second = user_token();
  ASSERT_TRUE(second.ok()) << second.error().to_string();
  EXPECT_EQ(*second, *first);
}

/// As on a disk that is full by now.
TEST(UserToken, IsFoundWhereNothingCanBeWritten) {
  const OwnTemporaryFiles files;
  const auto made = user_token();
  ASSERT_TRUE(made.ok()) << made.error().to_string();
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit none{0, limit.rlim_max};
  const auto former = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  const auto found = user_token();
  EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  ::signal(SIGXFSZ, former);
  ASSERT_TRUE(found.ok()) << found.error().to_string();
  EXPECT_EQ(*found, *made);
}

}  // namespace
}  // namespace gearshift::runtime
