#include "errors.h"

namespace gearshift::sim {
namespace {

TEST(WorkloadFile, TakesEveryKey) {
  const auto workload = parse_workload(R"(
name = "two layers"
batch_size = 32
forward = "95 ms"
backward = 0.19
optimizer = "4 ms"
parameters = [
  { name = "w", shape = [64, 3], dtype = "float16", ready = "190 ms" },
  { name = "scale", shape = [], ready = "1 ms" },
]
[variability]
kind = "log-normal"
spread = 0.1
)",
                                       "x.toml");
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  Workload expected;
  expected.name = "two layers";
  expected.batch_size = 32;
  expected.forward_seconds = 0.095;
  expected.backward_seconds = 0.19;
  expected.optimizer_seconds = 0.004;
  expected.variability = {Variability::Kind::kLogNormal, 0.1, {}};
  expected.parameters = {{"w", {64, 3}, base::DType::kF16, 0.19},
                         {"scale", {}, base::DType::kF32, 0.001}};
  EXPECT_EQ(*workload, expected);
}

TEST(WorkloadFile, HasDefaultsAndSpreadsGradientsOverBackwardByBytes) {
  const auto workload = parse_workload(R"(
forward = 1
backward = 8
[[parameters]]
name = "a"
shape = [5]
[[parameters]]
name = "b"
shape = [2]
ready = "7 s"
[[parameters]]
name = "c"
shape = [1]
)",
                                       "models/small.toml");
  ASSERT_TRUE(workload.ok()) << workload.error().message;
  EXPECT_EQ(workload->name, "small");
  EXPECT_EQ(workload->batch_size, 1);
  EXPECT_EQ(workload->optimizer_seconds, 0);
  EXPECT_EQ(workload->variability, Variability{});
  EXPECT_EQ(workload->compute_seconds(), 9);
  EXPECT_EQ(workload->parameters[0].ready_seconds, 8) << "the first one ends backward";
  EXPECT_EQ(workload->parameters[1].ready_seconds, 7);
  EXPECT_EQ(workload->parameters[2].ready_seconds, 1) << "an eighth of the bytes";
}

/// A workload in which `line`, the third, is to be wrong.
std::string with(const std::string& line) {
  return "forward = 1\nbackward = 2\n" + line + "\n[[parameters]]\nname = 'p'\nshape = [2]\n";
}

TEST(WorkloadFile, RefusesWrongKeys) {
  EXPECT_EQ(workload_error(with("batchsize = 3")),
            "3: batchsize: unknown key; did you mean \"batch_size\"?");
  EXPECT_EQ(workload_error(with("batch_size = 0")), "3: batch_size: must be at least 1, this is 0");
  EXPECT_EQ(workload_error(with("batch_size = 2.5")),
            "3: batch_size: must be an integer, this is 2.5");
  EXPECT_EQ(workload_error(with("batch_size = 3000000000")),
            "3: batch_size: must be at most 2147483647, this is 3000000000");
  EXPECT_EQ(workload_error(with("name = 3")), "3: name: must be a text, this is 3");
  EXPECT_EQ(workload_error(with("optimizer = '-4 ms'")),
            "3: optimizer: a time must not be negative, this is \"-4 ms\"");
  EXPECT_EQ(workload_error(with("optimizer = true")),
            "3: optimizer: must be a time, a number or a text with a unit, this is true");
  EXPECT_EQ(workload_error(with("optimizer = '4'")),
            "3: optimizer: \"4\" is no time: write a number with ns, us, ms, s, min, h or d "
            "(\"25 us\")");
  EXPECT_EQ(workload_error("forward = 0\nbackward = 1\nparameters = [{name='p', shape=[1]}]"),
            "1: forward: a time must be positive, this is 0");
  EXPECT_EQ(workload_error("forward = 1e300\nbackward = 1\nparameters = [{name='p', shape=[1]}]"),
            "1: forward: a time must be at most 1e+09 s, this is 1e+300");
  EXPECT_EQ(workload_error("forward = 1\nbackward = inf\nparameters = [{name='p', shape=[1]}]"),
            "2: backward: a time must be finite, this is inf");
  EXPECT_EQ(workload_error("forward = 1\nparameters = [{name='p', shape=[1]}]"),
            "1: backward: is missing");
  EXPECT_EQ(workload_error("\nbackward = 1\nparameters = [{name='p', shape=[1]}]"),
            "1: forward: is missing");
}

TEST(WorkloadFile, RefusesToBeWithoutParameters) {
  EXPECT_EQ(workload_error("forward = 1\nbackward = 1"),
            "1: parameters: a workload needs at least one parameter");
  EXPECT_EQ(workload_error("forward = 1\nbackward = 1\nparameters = []"),
            "3: parameters: a workload needs at least one parameter");
  EXPECT_EQ(workload_error("forward = 1\nbackward = 1\nparameters = 3"),
            "3: parameters: must be an array of tables, [[parameters]], this is 3");
  EXPECT_EQ(workload_error("forward = 1\nbackward = 1\nparameters = [3]"),
            "3: parameters[0]: must be a table, this is 3");
  EXPECT_EQ(workload_error("forward = 1\nbackward = 1\n[variability]\nkind = 'constant'\n"
                           "parameters = [{name='p', shape=[1]}]"),
            "5: variability.parameters: unknown key; \"parameters\" belongs to the file itself: "
            "move it above the first [table]");
}

/// The error for a second parameter of these keys, on line 5.
std::string parameter_error(const std::string& keys) {
  return workload_error(
      "forward = 1\nbackward = 2\nparameters = [\n  {name = 'p', shape = [2]},\n  {" + keys +
      "},\n]\n");
}

TEST(WorkloadFile, RefusesWrongParameters) {
  EXPECT_EQ(parameter_error("shape = [1]"), "5: parameters[1].name: is missing");
  EXPECT_EQ(parameter_error("name = '', shape = [1]"),
            "5: parameters[1].name: a name must not be empty");
  EXPECT_EQ(parameter_error("name = 'p', shape = [1]"),
            "5: parameters[1].name: \"p\" is the name of another one already");
  EXPECT_EQ(parameter_error("name = 'q'"), "5: parameters[1].shape: is missing");
  EXPECT_EQ(parameter_error("name = 'q', shape = 3"),
            "5: parameters[1].shape: must be an array of integers, this is 3");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1, '2']"),
            "5: parameters[1].shape[1]: must be an integer, this is \"2\"");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1, 0]"),
            "5: parameters[1].shape[1]: a dimension must be positive, this is 0");
  EXPECT_EQ(parameter_error("name = 'q', shape = [-4]"),
            "5: parameters[1].shape[0]: a dimension must be positive, this is -4");
  EXPECT_EQ(parameter_error("name = 'q', shape = [4294967296, 4294967296]"),
            "5: parameters[1].shape[1]: the parameter has more than 2^40 elements");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1], dtype = 'float'"),
            "5: parameters[1].dtype: no data type is called \"float\"; they are float64, float32, "
            "float16 and bfloat16");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1], dtype = 'int32'"),
            "5: parameters[1].dtype: only floating-point parameters can be trained, this is int32");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1], ready = '2.5 s'"),
            "5: parameters[1].ready: the gradient is ready at 2.5 s, after backward, which takes 2 "
            "s");
  EXPECT_EQ(parameter_error("name = 'q', shape = [1], ready = -1"),
            "5: parameters[1].ready: a time must not be negative, this is -1");
  EXPECT_EQ(parameter_error("name = 'q', shapes = [1], shape = [1]"),
            "5: parameters[1].shapes: unknown key; did you mean \"shape\"?");
}

TEST(WorkloadFile, SaysWhereTheSyntaxIsWrong) {
  EXPECT_TRUE(workload_error("forward = 1\nbackward = = 2").starts_with("2:12: "))
      << workload_error("forward = 1\nbackward = = 2");
}

TEST(WorkloadFile, MustBeReadable) {
  const auto missing = load_workload("/nonexistent/w.toml");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, base::ErrorCode::kIo);
  EXPECT_EQ(missing.error().message, "cannot read /nonexistent/w.toml: No such file or directory");
  const auto folder = load_workload("/");
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(folder.error().code, base::ErrorCode::kIo);
}

}  // namespace
}  // namespace gearshift::sim
