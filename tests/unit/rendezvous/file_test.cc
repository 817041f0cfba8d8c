#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "gearshift/rendezvous/file/factory.h"
#include "unit/rendezvous/testing.h"

namespace gearshift::rendezvous {
namespace {

using base::ErrorCode;
using gearshift::testing::TemporaryDirectory;
using ::testing::HasSubstr;

class FileStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<base::Scheduler> scheduler_ = base::make_os_scheduler();
  TemporaryDirectory directory_;
};

TEST_F(FileStoreTest, MakesAPrivateDirectory) {
  const std::string path = directory_.path() + "/deep/er/store";
  const auto store = file::open(*scheduler_, path);
  ASSERT_TRUE(store);
  EXPECT_EQ((*store)->address(), "file://" + path);
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
}

TEST_F(FileStoreTest, RefusesADirectoryThatOthersCanWriteTo) {
  for (const mode_t mode : {0770, 0702, 01777}) {
    ASSERT_EQ(::chmod(directory_.path().c_str(), mode), 0);
    const auto store = file::open(*scheduler_, directory_.path());
    ASSERT_FALSE(store) << std::oct << mode;
    EXPECT_EQ(store.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(store.error().message, HasSubstr("other users"));
  }
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
  EXPECT_TRUE(file::open(*scheduler_, directory_.path()));
}

TEST_F(FileStoreTest, RefusesADirectoryOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  ASSERT_EQ(::chown(directory_.path().c_str(), 12345, 12345), 0);
  EXPECT_EQ(file::open(*scheduler_, directory_.path()).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(FileStoreTest, RefusesWhatIsNoDirectory) {
  const std::string path = directory_.path() + "/file";
  std::ofstream(path) << "text";
  EXPECT_EQ(file::open(*scheduler_, path).error().code, ErrorCode::kIo);
  EXPECT_EQ(file::open(*scheduler_, "").error().code, ErrorCode::kInvalidArgument);
}

TEST_F(FileStoreTest, LeavesNoTemporaryFiles) {
  auto store = std::move(file::open(*scheduler_, directory_.path())).value();
  ASSERT_TRUE(store->set("a", "1"));
  ASSERT_TRUE(store->add("b", 1));
  for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
    EXPECT_THAT(entry.path().filename().string(), ::testing::AnyOf("a", "b", ".lock"));
  }
}

/// Sets `key` in a process that has the number 1, like the first one of a container. False: this
/// process may not make such ones.
bool set_as_first_process(const std::string& directory, const std::string& key) {
  constexpr int kMayNot = 77;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWPID) != 0) ::_exit(kMayNot);
    const pid_t first = ::fork();
    if (first == 0) {
      const auto scheduler = base::make_os_scheduler();
      const auto store = file::open(*scheduler, directory);
      ::_exit(::getpid() == 1 && store && (*store)->set(key, "1") ? 0 : 1);
    }
    int status = 0;
    ::waitpid(first, &status, 0);
    ::_exit(WEXITSTATUS(status));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WEXITSTATUS(status) == kMayNot) return false;
  EXPECT_EQ(status, 0);
  return true;
}

TEST_F(FileStoreTest, ProcessesOfEqualNumberAndHostNameDoNotMeetInAFile) {
  const int watch = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  ASSERT_GE(::inotify_add_watch(watch, directory_.path().c_str(), IN_CREATE), 0);
  for (const char* key : {"a", "b"}) {
    if (!set_as_first_process(directory_.path(), key)) GTEST_SKIP() << "no process namespaces";
  }
  alignas(inotify_event) char events[4096];
  const ssize_t size = ::read(watch, events, sizeof events);
  ::close(watch);
  std::vector<std::string> made;
  for (ssize_t at = 0; at < size;) {
    const auto* event = reinterpret_cast<const inotify_event*>(events + at);
    made.emplace_back(event->name);
    at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
  }
  ASSERT_EQ(made.size(), 2U);
  EXPECT_NE(made[0], made[1]);
}

TEST_F(FileStoreTest, ATooLargeFileIsAnError) {
  auto store = std::move(file::open(*scheduler_, directory_.path())).value();
  std::ofstream(directory_.path() + "/a") << std::string((1 << 20) + 1, 'x');
  EXPECT_EQ(store->get("a", scheduler_->now()).error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace gearshift::rendezvous
