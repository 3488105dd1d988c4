#include "machete/tokens.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "testing/random.h"
#include "tests/gpu/workbench.h"

// Activations to 8 bits on the GPU: the bits of the CPU, and a product of them.
namespace machete::tests {
namespace {

using testing::DeviceBuffer;

class Tokens : public GpuTest {};

TokenOptions on(Device device) {
  TokenOptions options;
  options.device = device;
  return options;
}

std::vector<std::uint8_t> on_host(const DeviceBuffer& buffer) {
  std::vector<std::uint8_t> bytes(buffer.size());
  require(buffer.download(bytes.data(), bytes.size()));
  return bytes;
}

TEST_F(Tokens, GiveTheBitsOfTheCpu) {
  DeviceBuffer a(DeviceBuffer::Guard::kZones);
  DeviceBuffer codes(DeviceBuffer::Guard::kZones);
  DeviceBuffer scales(DeviceBuffer::Guard::kZones);
  std::uint64_t seed = 1;
  for (const DataType a_type : kActivationTypes) {
    for (const DataType code_type : {DataType::kS8, DataType::kE4m3}) {
      for (const std::int64_t k : {1, 8, 100, 2048, 4096, 4104, 7168, 14336, 16384, 16392, 28672}) {
        for (const std::int64_t gap : {0, 3, 8}) {
          for (const auto fill : {testing::ActivationFill::kNormal, testing::ActivationFill::kOutliers}) {
            TokenQuantization what;
            what.m = 37;
            what.k = k;
            what.a_type = a_type;
            what.code_type = code_type;
            what.lda = k + gap;
            what.ldc = k + 2 * gap;
            require(a.resize(static_cast<std::size_t>((what.m - 1) * what.lda + k) * 2));
            require(codes.resize(static_cast<std::size_t>((what.m - 1) * what.ldc + k)));
            require(scales.resize(static_cast<std::size_t>(what.m) * 4));
            require(a.poison(nullptr));
            require(codes.poison(nullptr));
            require(scales.poison(nullptr));
            require(testing::fill_activations(a_type, a.data(), what.m, k, what.lda, fill, ++seed, nullptr));
            if (seed % 5 == 0) require(cudaMemset(a.data(), 0xff, 2), "a NaN in the first token");
            if (seed % 7 == 0)
              require(cudaMemset(a.as<char>() + what.lda * 2, 0, static_cast<std::size_t>(k) * 2), "a token of zeros");

            std::vector<std::uint8_t> expected = on_host(codes);
            std::vector<float> expected_scales(static_cast<std::size_t>(what.m));
            const auto from = on_host(a);
            require(quantize_tokens(what, from.data(), expected.data(), expected_scales.data(), on(Device::cpu())));
            require(quantize_tokens(what, a.data(), codes.data(), scales.as<float>(), on(Device::cuda()),
                                    Stream(bench().stream())));
            require(cudaStreamSynchronize(bench().stream()), "quantise");

            ASSERT_EQ(on_host(codes), expected) << name_of(a_type) << " to " << name_of(code_type) << ", K=" << k;
            const auto found = on_host(scales);
            for (std::size_t m = 0; m < expected_scales.size(); ++m) {  // NaNs may have any bits
              float scale = 0;
              std::memcpy(&scale, found.data() + m * 4, 4);
              ASSERT_TRUE(scale == expected_scales[m] || (std::isnan(scale) && std::isnan(expected_scales[m]))) << m;
            }
            for (const DeviceBuffer* buffer : {&a, &codes, &scales}) ASSERT_TRUE(require(buffer->guards_intact()));
          }
        }
      }
    }
  }
}

// Quantised and multiplied in one graph, each starting early: close to the product of the activations themselves. Two
// inputs by turns, over spoiled codes and scales: whoever reads either early reads NaN or the other input's.
TEST_F(Tokens, MeetALinear) {
  for (const DataType code_type : {DataType::kS8, DataType::kE4m3}) {
    for (const std::int64_t m : {1, 40, 200}) {
      Case c{make_problem(code_type, m, 512, 1024)};
      c.problem.epilogue.token_scale = true;
      c.problem.d_type = DataType::kF32;
      bench().prepare(c);
      bench().poison_output(c);
      PlanOptions options;
      options.device = Device::cuda();
      options.overlap = true;
      const Plan plan = require(machete::plan(c.problem, options));
      DeviceBuffer a;
      DeviceBuffer scales;
      DeviceBuffer workspace;
      std::vector<DeviceBuffer> inputs(2);
      require(a.resize(static_cast<std::size_t>(m * 1024) * 2));
      require(scales.resize(static_cast<std::size_t>(m) * 4));
      require(workspace.resize(plan.workspace_size()));
      require(workspace.poison(nullptr));
      for (DeviceBuffer& input : inputs) {
        require(input.resize(a.size()));
        require(testing::fill_activations(DataType::kBf16, input.data(), m, 1024, 1024,
                                          testing::ActivationFill::kNormal, &input == inputs.data() ? 5 : 6,
                                          bench().stream()));
      }
      TokenQuantization what;
      what.m = m;
      what.k = 1024;
      what.code_type = code_type;
      TokenOptions token_options = on(Device::cuda());
      token_options.overlap = true;
      Arguments arguments = bench().arguments();
      arguments.token_scale = scales.as<float>();

      cudaGraph_t graph = nullptr;
      cudaGraphExec_t replay = nullptr;
      require(cudaStreamBeginCapture(bench().stream(), cudaStreamCaptureModeThreadLocal), "capture");
      require(quantize_tokens(what, a.data(), bench().a().data(), scales.as<float>(), token_options,
                              Stream(bench().stream())));
      require(run(plan, arguments, workspace.data(), workspace.size(), Stream(bench().stream())));
      require(cudaStreamEndCapture(bench().stream(), &graph), "capture");
      require(cudaGraphInstantiate(&replay, graph, 0), "instantiate");
      std::vector<unsigned char> outputs[2];
      for (int repetition = 0; repetition < 50; ++repetition) {
        const auto turn = static_cast<std::size_t>(repetition % 2);
        require(cudaMemcpyAsync(a.data(), inputs[turn].data(), a.size(), cudaMemcpyDeviceToDevice, bench().stream()),
                "the input");
        require(cudaMemsetAsync(bench().a().data(), 0x55, bench().a().size(), bench().stream()), "spoil the codes");
        require(scales.poison(bench().stream()));
        require(cudaGraphLaunch(replay, bench().stream()), "replay");
        const auto d = bench().output();
        if (outputs[turn].empty()) outputs[turn] = d;
        ASSERT_EQ(d, outputs[turn]) << "repetition " << repetition;
      }
      ASSERT_NE(outputs[0], outputs[1]);
      static_cast<void>(cudaGraphExecDestroy(replay));
      static_cast<void>(cudaGraphDestroy(graph));

      // Against the same product on the CPU of the CPU's codes.
      PrepackOptions on_cpu;
      on_cpu.device = Device::cpu();
      on_cpu.activation_bits = 8;
      const PackedWeight packed = require(prepack(bench().weight(), on_cpu));
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(m * 1024));
      std::vector<float> token_scale(static_cast<std::size_t>(m));
      const auto from = on_host(inputs[0]);
      require(quantize_tokens(what, from.data(), codes.data(), token_scale.data(), on(Device::cpu())));
      PlanOptions cpu;
      cpu.device = Device::cpu();
      const Plan reference = require(machete::plan(c.problem, cpu));
      std::vector<float> expected(static_cast<std::size_t>(m * 512));
      Arguments given;
      given.a = codes.data();
      given.weight = &packed;
      given.d = expected.data();
      given.token_scale = token_scale.data();
      require(run(reference, given, nullptr, 0));
      std::vector<float> found(expected.size());
      std::memcpy(found.data(), outputs[0].data(), outputs[0].size());
      double error = 0;
      double norm = 0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        error += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[i]), 2);
        norm += std::pow(static_cast<double>(expected[i]), 2);
      }
      EXPECT_LT(std::sqrt(error / norm), code_type == DataType::kS8 ? 1e-6 : 2e-3) << "M=" << m;
    }
  }
}

// What a layer does: a linear of bf16, its output to 8 bits, the next linear.
struct Chain {
  const PackedWeight& first_weight;
  const PackedWeight& second_weight;
  TokenQuantization tokens;
  DeviceBuffer hidden = DeviceBuffer();  // [M, K of the second]
  DeviceBuffer codes = DeviceBuffer();
  DeviceBuffer scales = DeviceBuffer();
  DeviceBuffer workspaces[2] = {DeviceBuffer(), DeviceBuffer()};

  void resize(const Plan& first, const Plan& second) {
    const std::size_t elements = static_cast<std::size_t>(tokens.m * tokens.k);
    require(hidden.resize(elements * 2));
    require(codes.resize(elements));
    require(scales.resize(static_cast<std::size_t>(tokens.m) * 4));
    require(workspaces[0].resize(first.workspace_size()));
    require(workspaces[1].resize(second.workspace_size()));
  }
  void spoil(cudaStream_t stream) {
    for (DeviceBuffer* buffer : {&hidden, &codes, &scales}) require(buffer->poison(stream));
  }
  void enqueue(const Plan& one, const Plan& two, bool overlap, const void* a, void* d, cudaStream_t stream) {
    Arguments arguments;
    arguments.a = a;
    arguments.weight = &first_weight;
    arguments.d = hidden.data();
    require(run(one, arguments, workspaces[0].data(), workspaces[0].size(), Stream(stream)));
    TokenOptions options = on(Device::cuda());
    options.overlap = overlap;
    require(quantize_tokens(tokens, hidden.data(), codes.data(), scales.as<float>(), options, Stream(stream)));
    arguments.a = codes.data();
    arguments.weight = &second_weight;
    arguments.d = d;
    arguments.token_scale = scales.as<float>();
    require(run(two, arguments, workspaces[1].data(), workspaces[1].size(), Stream(stream)));
  }
};

Plan overlapped(const Problem& problem, const Plan& plain) {
  PlanOptions options = on_cuda();
  options.schedule = plain.schedule();
  options.overlap = true;
  return require(machete::plan(problem, options));
}

// Chain after chain through the same buffers with nothing but dependent launches between: the bits of plain ones.
TEST_F(Tokens, BetweenTwoLinears) {
  constexpr int kChains = 40;
  const cudaStream_t stream = bench().stream();
  for (const DataType code_type : {DataType::kS8, DataType::kE4m3}) {
    for (const std::int64_t m : {1, 16, 150}) {
      const Case first{make_problem(DataType::kBf16, m, 1024, 512)};
      bench().prepare(first);
      PrepackOptions prepack_options;
      prepack_options.device = Device::cuda();
      const PackedWeight first_weight = require(prepack(bench().weight(), prepack_options));
      Case second{make_problem(code_type, m, 768, 1024)};
      second.problem.epilogue.token_scale = true;
      bench().prepare(second);
      const Plan plain[] = {require(machete::plan(first.problem, on_cuda())),
                            require(machete::plan(second.problem, on_cuda()))};
      const Plan early[] = {overlapped(first.problem, plain[0]), overlapped(second.problem, plain[1])};
      TokenQuantization tokens;
      tokens.m = m;
      tokens.k = 1024;
      tokens.code_type = code_type;
      Chain chain{first_weight, bench().packed(), tokens};
      chain.resize(plain[0], plain[1]);

      std::vector<DeviceBuffer> inputs(2);
      std::vector<std::vector<std::uint8_t>> expected;
      std::vector<DeviceBuffer> outputs(kChains);
      for (DeviceBuffer& d : outputs) require(d.resize(static_cast<std::size_t>(m * 768) * 2));
      for (DeviceBuffer& input : inputs) {
        require(input.resize(static_cast<std::size_t>(m * 512) * 2));
        require(testing::fill_activations(DataType::kBf16, input.data(), m, 512, 512, testing::ActivationFill::kNormal,
                                          &input == inputs.data() ? 7 : 8, stream));
        chain.spoil(stream);
        chain.enqueue(plain[0], plain[1], false, input.data(), outputs[0].data(), stream);
        require(cudaStreamSynchronize(stream), "plain launches");
        expected.push_back(on_host(outputs[0]));
      }
      ASSERT_NE(expected[0], expected[1]);
      for (int repetition = 0; repetition < 10; ++repetition) {
        for (DeviceBuffer& d : outputs) require(d.poison(stream));
        chain.spoil(stream);
        for (int i = 0; i < kChains; ++i) {
          const auto index = static_cast<std::size_t>(i);
          chain.enqueue(early[0], early[1], true, inputs[index % 2].data(), outputs[index].data(), stream);
        }
        require(cudaStreamSynchronize(stream), "dependent launches");
        for (std::size_t i = 0; i < outputs.size(); ++i) {
          ASSERT_EQ(on_host(outputs[i]), expected[i % 2])
              << name_of(code_type) << ", M=" << m << ", chain " << i << " of repetition " << repetition;
        }
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
