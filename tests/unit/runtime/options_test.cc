#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

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

TEST(SessionOptions, TheJobMayComeWithAStrategy) {
  const auto none = SessionOptions::strategy_from_environment();
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->has_value());
  {
    const Environment job({{"GEARSHIFT_STRATEGY", "ps:ssp(3)"}, {"GEARSHIFT_TOTAL_STEPS", "90"}});
    const auto found = SessionOptions::strategy_from_environment();
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    ASSERT_TRUE(found->has_value());
    EXPECT_EQ((*found)->total_steps, 90);
    EXPECT_THAT((*found)->to_string(), HasSubstr("consistency=ssp(3)"));
  }
  {
    const Environment job({{"GEARSHIFT_STRATEGY", "ps"}, {"GEARSHIFT_TOTAL_STEPS", "5000000000"}});
    const auto found = SessionOptions::strategy_from_environment();
    ASSERT_TRUE(found.ok()) << found.error().to_string();
    EXPECT_EQ((*found)->total_steps, 5'000'000'000);
  }
  for (const char* steps : {"1e6", "-1", "99999999999999999999"}) {
    const Environment job({{"GEARSHIFT_STRATEGY", "ps"}, {"GEARSHIFT_TOTAL_STEPS", steps}});
    const auto found = SessionOptions::strategy_from_environment();
    ASSERT_FALSE(found.ok()) << steps;
    EXPECT_THAT(found.error().message, HasSubstr("GEARSHIFT_TOTAL_STEPS must be a whole number"));
  }
  const Environment job({{"GEARSHIFT_STRATEGY", "gossip"}, {"GEARSHIFT_TOTAL_STEPS", "1"}});
  const auto wrong = SessionOptions::strategy_from_environment();
  ASSERT_FALSE(wrong.ok());
  EXPECT_THAT(wrong.error().message, HasSubstr("GEARSHIFT_STRATEGY: strategy 'gossip'"));
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

TEST(SessionOptions, TasksOfSlurmMeetOnItsFirstHost) {
  std::map<std::string, std::string> task{
      {"SLURM_JOB_ID", "17"},        {"SLURM_STEP_ID", "1"},        {"SLURM_PROCID", "4"},
      {"SLURM_STEP_NUM_TASKS", "5"}, {"SLURM_STEP_NUM_NODES", "3"}, {"GEARSHIFT_TOKEN", "secret"}};
  const std::pair<const char*, const char*> hosts[] = {{"gpu[07-09,12],cpu1", "gpu07"},
                                                       {"cpu1,gpu[07-09]", "cpu1"},
                                                       {"rack[2-3]n[10-11]-ib", "rack2n10-ib"}};
  for (const auto& [nodes, first] : hosts) {
    task["SLURM_STEP_NODELIST"] = nodes;
    const Environment step(task);
    const auto options = SessionOptions::from_environment();
    ASSERT_TRUE(options.ok()) << options.error().to_string();
    EXPECT_EQ(options->rdzv, "tcp://" + std::string(first) + ":20528");
  }
  task.erase("SLURM_STEP_NODELIST");
  const Environment step(task);
  const auto refused = SessionOptions::from_environment();
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("set GEARSHIFT_RDZV=HOST:PORT"));
}

TEST(SessionOptions, ANameOfAnInterfaceIsNoAddress) {
  SessionOptions options = rank_1_of_2("node0:29400");
  options.interface = "lo";
  const auto status = options.validate();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(status.error().message, HasSubstr("'lo', the name of an interface"));
}

TEST(SessionOptions, TransportsAreNamed) {
  const Environment given({{"RANK", "0"},
                           {"WORLD_SIZE", "1"},
                           {"MASTER_ADDR", "localhost"},
                           {"MASTER_PORT", "29400"},
                           {"GEARSHIFT_TRANSPORTS", "tcp, shm,"}});
  const auto options = SessionOptions::from_environment();
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->transports, (std::vector<std::string>{"tcp", "shm"}));

  const Environment other(std::map<std::string, std::string>{{"GEARSHIFT_TRANSPORTS", "tcp,udp"}});
  const auto refused = SessionOptions::from_environment();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("no transport 'udp': GEARSHIFT_TRANSPORTS"));
}

/// As Kubernetes' PyTorchJob and scripts set them, with what else a case adds.
base::Result<SessionOptions> of_rank_1(std::map<std::string, std::string> more) {
  more.insert({{"RANK", "1"}, {"WORLD_SIZE", "4"}});
  const Environment given(std::move(more));
  return SessionOptions::from_environment();
}

TEST(SessionOptions, WhoeverSetsRankAndWorldSizeStartsAJob) {
  const std::map<std::string, std::string> pods{
      {"MASTER_ADDR", "job-master-0"}, {"MASTER_PORT", "23456"}, {"GEARSHIFT_TOKEN", "secret"}};
  const auto options = of_rank_1(pods);
  ASSERT_TRUE(options.ok()) << options.error().to_string();
  EXPECT_EQ(options->rank, 1);
  EXPECT_EQ(options->world_size, 4);
  EXPECT_GT(options->nnodes, 1);
  EXPECT_EQ(options->rdzv, "tcp://job-master-0:23456");

  const auto v6 = of_rank_1({{"MASTER_ADDR", "fd00::7"},
                             {"MASTER_PORT", "23456"},
                             {"GEARSHIFT_TOKEN", "secret"},
                             {"LOCAL_WORLD_SIZE", "4"}});
  ASSERT_TRUE(v6.ok()) << v6.error().to_string();
  EXPECT_EQ(v6->nnodes, 1);
  EXPECT_EQ(v6->rdzv, "tcp://[fd00::7]:23456");
}

TEST(SessionOptions, RanksOfOneHostNeedNoToken) {
  std::string directory = ::testing::TempDir() + "token-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  std::vector<std::string> tokens;
  for (const char* host : {"localhost", "127.0.0.1", "::1"}) {
    const auto options =
        of_rank_1({{"MASTER_ADDR", host}, {"MASTER_PORT", "23456"}, {"TMPDIR", directory}});
    ASSERT_TRUE(options.ok()) << options.error().to_string();
    EXPECT_EQ(options->nnodes, 1);
    tokens.push_back(options->token);
  }
  EXPECT_GE(tokens[0].size(), 32U);
  EXPECT_THAT(tokens, ::testing::Each(tokens[0]));
  std::filesystem::remove_all(directory);
}

TEST(SessionOptions, ARankOfSeveralDoesNotTrainAlone) {
  const auto lost = of_rank_1({});
  ASSERT_FALSE(lost.ok());
  EXPECT_THAT(lost.error().message, HasSubstr("set MASTER_ADDR and MASTER_PORT"));
  const auto open = of_rank_1({{"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "23456"}});
  ASSERT_FALSE(open.ok());
  EXPECT_THAT(open.error().message, HasSubstr("no job token"));
}

TEST(SessionOptions, ATimeoutIsANumber) {
  const Environment given(std::map<std::string, std::string>{{"GEARSHIFT_TIMEOUT", "5min"}});
  const auto options = SessionOptions::from_environment();
  ASSERT_FALSE(options.ok());
  EXPECT_THAT(options.error().message, HasSubstr("'5min'"));
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

TEST(Session, ADedicatedServerHasNoModel) {
  std::string directory = ::testing::TempDir() + "servers-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  SessionOptions worker = rank_1_of_2("file://" + directory);
  worker.rank = 0;
  worker.servers = 1;
  SessionOptions server = worker;
  server.rank = 1;
  std::thread other([&] {
    const auto session = Session::create(server);
    ASSERT_TRUE(session.ok()) << session.error().to_string();
    EXPECT_TRUE((*session)->is_server());
    const auto replica = (*session)->distribute({});
    ASSERT_FALSE(replica.ok());
    EXPECT_EQ(replica.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(replica.error().message, HasSubstr("call serve()"));
    EXPECT_TRUE((*session)->serve().ok());
    EXPECT_TRUE((*session)->close().ok());
  });
  const auto session = Session::create(worker);
  EXPECT_TRUE(session.ok()) << session.error().to_string();
  if (session.ok()) {
    EXPECT_TRUE((*session)->close().ok());
  }
  other.join();
  std::filesystem::remove_all(directory);
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
