#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

#include "gearshift/runtime/session.h"

namespace gearshift::runtime {
namespace {

using base::ErrorCode;
using ::testing::HasSubstr;

/// Environment variables for the life of this object.
class Environment {
 public:
  explicit Environment(std::map<std::string, std::string> values) : values_(std::move(values)) {
    for (const auto& [name, value] : values_) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const auto& [name, value] : values_) ::unsetenv(name.c_str());
  }

 private:
  const std::map<std::string, std::string> values_;
};

SessionOptions rank_1_of_2(const std::string& rdzv) {
  SessionOptions options;
  options.rank = 1;
  options.world_size = 2;
  options.rdzv = rdzv;
  options.token = "secret";
  return options;
}

TEST(SessionOptions, HydraNumbersItsProcesses) {
  const Environment hydra({{"PMI_RANK", "3"},
                           {"PMI_SIZE", "4"},
                           {"MPI_LOCALRANKID", "1"},
                           {"MPI_LOCALNRANKS", "2"},
                           // Of the proxy, where srun started it.
                           {"SLURM_STEP_ID", "0"},
                           {"SLURM_PROCID", "1"},
                           {"SLURM_STEP_NUM_TASKS", "2"},
                           {"GEARSHIFT_RDZV", "node0:29400"},
                           {"GEARSHIFT_TOKEN", "secret"}});
  const auto options = SessionOptions::from_environment();
  ASSERT_TRUE(options.ok()) << options.error().to_string();
  EXPECT_EQ(options->rank, 3);
  EXPECT_EQ(options->world_size, 4);
  EXPECT_GT(options->nnodes, 1);
}

TEST(SessionOptions, ANameOfAnInterfaceIsNoAddress) {
  SessionOptions options = rank_1_of_2("node0:29400");
  options.interface = "lo";
  const auto status = options.validate();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().message, HasSubstr("'lo', the name of an interface"));
}

TEST(SessionOptions, AddressesThatOthersCannotReachAreRefused) {
  SessionOptions options = rank_1_of_2("node0:29400");
  for (const char* wildcard : {"0.0.0.0", "::", "[::]", "0"}) {
    options.interface = wildcard;
    const auto status = options.validate();
    ASSERT_FALSE(status.ok()) << wildcard;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(status.error().message, HasSubstr("GEARSHIFT_INTERFACE"));
  }
  for (const char* address : {"10.0.0.1", "fe80::1", "[::1]", "node1", ""}) {
    options.interface = address;
    EXPECT_TRUE(options.validate().ok()) << address;
  }
}

TEST(SessionOptions, FilesDoNotTellAtWhichAddressAHostIsReached) {
  SessionOptions options = rank_1_of_2("file:///shared/job");
  EXPECT_TRUE(options.validate().ok());
  options.nnodes = 2;
  ASSERT_FALSE(options.validate().ok());
  EXPECT_THAT(options.validate().error().message, HasSubstr("GEARSHIFT_INTERFACE"));
  options.interface = "10.0.0.2";
  EXPECT_TRUE(options.validate().ok());
}

TEST(Session, ATimeoutBeyondAllBoundsIsAsLongAsItTakes) {
  for (const char* seconds : {"1e10", "inf"}) {
    const Environment given(std::map<std::string, std::string>{{"GEARSHIFT_TIMEOUT", seconds}});
    const auto options = SessionOptions::from_environment();
    ASSERT_TRUE(options.ok()) << options.error().to_string();
    const auto session = Session::create(*options);
    ASSERT_TRUE(session.ok()) << session.error().to_string();
    EXPECT_EQ((*session)->timeout(), SessionOptions::kLongestTimeout);
  }
}

TEST(SessionOptions, ATimeoutIsANumberOfSeconds) {
  for (const char* text : {"5min", "10 s", "1,5", "soon", "0", "-3", "nan"}) {
    const Environment given(std::map<std::string, std::string>{{"GEARSHIFT_TIMEOUT", text}});
    const auto options = SessionOptions::from_environment();
    ASSERT_FALSE(options.ok()) << text;
    EXPECT_EQ(options.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(options.error().message, HasSubstr(text));
  }
  const Environment given(std::map<std::string, std::string>{{"GEARSHIFT_TIMEOUT", "2.5"}});
  EXPECT_EQ(SessionOptions::from_environment()->timeout, std::chrono::milliseconds(2500));
}

TEST(Session, ThePortOfTheRendezvousIsANumber) {
  for (const char* rdzv : {"127.0.0.1:2940o", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1"}) {
    SessionOptions options = rank_1_of_2(rdzv);
    options.timeout = std::chrono::milliseconds(70);
    const auto session = Session::create(options);
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.error().code, ErrorCode::kInvalidArgument) << rdzv;
    EXPECT_THAT(session.error().message, HasSubstr(rdzv));
  }
}

TEST(Session, ANameThatIsNotKnownYetIsWaitedFor) {
  SessionOptions options = rank_1_of_2("no-such-host.invalid:29400");
  options.nnodes = 2;
  options.timeout = std::chrono::milliseconds(70);
  const auto session = Session::create(options);
  ASSERT_FALSE(session.ok());
  EXPECT_EQ(session.error().code, ErrorCode::kTimeout) << session.error().to_string();
  EXPECT_THAT(session.error().message, HasSubstr("no-such-host.invalid"));
}

TEST(Session, RaisesTheLimitOfDescriptors) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = std::min<rlim_t>(before.rlim_cur, 256);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  ASSERT_TRUE(Session::create({}).ok());
  rlimit after{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, std::min<rlim_t>(before.rlim_max, 1U << 16));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace gearshift::runtime
