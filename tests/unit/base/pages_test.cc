#include "gearshift/base/pages.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace gearshift::base {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

std::uintptr_t address(Bytes memory) { return reinterpret_cast<std::uintptr_t>(memory.data()); }

/// What the kernel says of the mapping that this memory lies in: a line of /proc/self/smaps.
std::string said_of(Bytes memory, const std::string& key) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0, end = 0;
    char dash = 0;
    std::istringstream head(line);
    if (head >> std::hex >> begin >> dash >> end && dash == '-') {
      inside = begin <= address(memory) && address(memory) < end;
    } else if (inside && line.rfind(key + ":", 0) == 0) {
      return line.substr(key.size() + 1);
    }
  }
  return "";
}

bool kernel_grants_to_who_asks() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string words;
  std::getline(file, words);
  return words.find("[madvise]") != std::string::npos ||
         words.find("[always]") != std::string::npos;
}

TEST(Pages, AreZeroedAndHaveTheSizeThatWasAsked) {
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{4097}, kHuge - 1, kHuge, 3 * kHuge + 5}) {
    auto made = Pages::create(bytes);
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    const Bytes view = (*made)->view();
    ASSERT_EQ(view.size(), bytes);
    EXPECT_TRUE(
        std::all_of(view.begin(), view.end(), [](std::byte b) { return b == std::byte{}; }));
    std::fill(view.begin(), view.end(), std::byte{7});
    const auto alignment =
        bytes < kHuge ? static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) : kHuge;
    EXPECT_EQ(address(view) % alignment, 0U) << bytes;
  }
}

TEST(Pages, AreHugeWhereTheKernelGrantsThem) {
  if (!kernel_grants_to_who_asks()) GTEST_SKIP() << "no transparent huge pages here";
  auto made = Pages::create(4 * kHuge + 5000);
  ASSERT_TRUE(made.ok());
  const Bytes view = (*made)->view();
  EXPECT_NE(said_of(view, "VmFlags").find(" hg"), std::string::npos);
  // The rest is on small pages: nobody pays for a whole huge one.
  std::fill(view.begin(), view.end(), std::byte{1});
  std::istringstream resident(said_of(view, "Rss"));
  std::size_t kib = 0;
  resident >> kib;
  EXPECT_EQ(kib, (4 * kHuge + 8192) / 1024);
}

/// What a forked child finds in the first and the last byte, which are 5 here.
int seen_by_child(Pages::InChild in_child, std::size_t bytes) {
  auto made = Pages::create(bytes, in_child);
  if (!made) return -1;
  const Bytes view = (*made)->view();
  std::fill(view.begin(), view.end(), std::byte{5});
  const pid_t child = ::fork();
  if (child == 0)
    ::_exit(10 * std::to_integer<int>(view.front()) + std::to_integer<int>(view.back()));
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(view.front(), std::byte{5});
  EXPECT_EQ(view.back(), std::byte{5});
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Pages, ForkedChildrenHaveACopyOrZeros) {
  for (const std::size_t bytes : {std::size_t{1}, kHuge - 1, 2 * kHuge + 4097}) {
    EXPECT_EQ(seen_by_child(Pages::InChild::kCopy, bytes), 55) << bytes;
    EXPECT_EQ(seen_by_child(Pages::InChild::kZeros, bytes), 0) << bytes;
  }
}

TEST(Pages, RefuseWhatCannotBe) {
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX / 2}) {
    auto made = Pages::create(bytes);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, ErrorCode::kIo);
    EXPECT_NE(made.error().message.find("bytes of memory"), std::string::npos);
  }
}

}  // namespace
}  // namespace gearshift::base
