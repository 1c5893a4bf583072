// Sharing keys out and putting rows back, against the plain way of doing so.
#include "client/shards.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

constexpr uint32_t kDims[] = {3, 16};
constexpr uint64_t kSalts[] = {77, 1ULL << 63};

std::shared_ptr<const ClientRouting> RoutingOf(uint16_t servers) {
  auto routing = std::make_shared<ClientRouting>();
  for (uint16_t s = 0; s < servers; ++s) routing->servers.push_back(s);
  for (size_t slot = 0; slot < kSlotCount; ++slot) {
    routing->shard_of_slot[slot] = static_cast<uint16_t>(slot % servers);
  }
  return routing;
}

struct Batch {
  std::vector<uint64_t> keys[2];
  std::vector<float> grads[2];
  std::vector<TableKeys> tables;

  explicit Batch(uint64_t seed) {
    std::mt19937_64 random(seed);
    for (size_t t = 0; t < 2; ++t) {
      keys[t].resize(random() % 30'000);
      for (uint64_t& key : keys[t]) key = random() % 7'000;
      grads[t].resize(keys[t].size() * kDims[t]);
      for (float& grad : grads[t]) grad = static_cast<float>(random() % 1000) * 0.37f;
      tables.push_back({kSalts[t], kDims[t], keys[t]});
    }
  }
};

const Kernels& Best() { return *FindKernels("auto").value(); }

// What a server would send for a key's column.
float ValueOf(uint64_t salt, uint64_t key, size_t column) {
  return static_cast<float>(Fmix64(key ^ salt) % 100'000) + static_cast<float>(column);
}

TEST(EachDistinctKeyTravelsOnceToItsOwner) {
  for (const uint16_t servers : {uint16_t{1}, uint16_t{2}, uint16_t{5}}) {
    const Batch batch(servers);
    const auto routing = RoutingOf(servers);
    ThreadPool pool(3);
    Shards shards;
    shards.Plan(batch.tables, routing, Repeats::kJoin, pool);
    REQUIRE_TRUE(shards.shards().size() == servers);
    std::vector<uint64_t> seen[2];
    for (size_t s = 0; s < servers; ++s) {
      const Shards::Shard& shard = shards.shards()[s];
      size_t at = 0;
      for (size_t t = 0; t < 2; ++t) {
        for (uint32_t i = 0; i < shard.sections[t].count; ++i, ++at) {
          const uint64_t key = shard.keys[at];
          CHECK_EQ(routing->shard_of_slot[SlotOf(MixKey(kSalts[t], key))], s);
          seen[t].push_back(key);
        }
      }
      CHECK_EQ(at, shard.keys.size());
    }
    for (size_t t = 0; t < 2; ++t) {
      std::vector<uint64_t> expected = batch.keys[t];
      std::sort(expected.begin(), expected.end());
      expected.erase(std::unique(expected.begin(), expected.end()), expected.end());
      std::sort(seen[t].begin(), seen[t].end());
      CHECK_TRUE(seen[t] == expected);
    }
  }
}

TEST(GradientsAreSummedInTheOrderOfTheStore) {
  const Batch batch(3);
  ThreadPool pool(3);
  Shards shards;
  shards.Plan(batch.tables, RoutingOf(3), Repeats::kJoin, pool);
  std::vector<std::vector<float>> sums;
  std::vector<std::byte*> to;
  for (const auto& shard : shards.shards()) sums.emplace_back(shard.float_count);
  for (auto& sum : sums) to.push_back(reinterpret_cast<std::byte*>(sum.data()));
  const float* grads[] = {batch.grads[0].data(), batch.grads[1].data()};
  std::vector<uint64_t> reported(3);
  const std::vector<Feedback> none(2);
  shards.GatherGradients(
      {Best(), grads, none, to},
      [&](std::span<const uint64_t> bytes) {
        for (size_t s = 0; s < 3; ++s) {
          CHECK_TRUE(bytes[s] >= reported[s]);
          reported[s] = bytes[s];
        }
      },
      pool);
  for (size_t s = 0; s < 3; ++s) {
    const Shards::Shard& shard = shards.shards()[s];
    CHECK_EQ(reported[s], shard.value_bytes);
    const float* row = sums[s].data();
    size_t at = 0;
    for (size_t t = 0; t < 2; ++t) {
      for (uint32_t k = 0; k < shard.sections[t].count; ++k, ++at, row += kDims[t]) {
        for (size_t c = 0; c < kDims[t]; ++c) {
          float sum = -0.0f;
          for (size_t i = 0; i < batch.keys[t].size(); ++i) {
            if (batch.keys[t][i] == shard.keys[at]) sum += batch.grads[t][i * kDims[t] + c];
          }
          CHECK_EQ(row[c], sum);
        }
      }
    }
  }
}

// What three pushes of a batch would send, and the residuals that they leave, as bytes.
std::vector<std::vector<std::byte>> PushThrice(const Batch& batch, Repeats repeats, int threads,
                                               ValueType type, size_t residual_rows_max) {
  std::vector<TableKeys> tables = batch.tables;
  for (TableKeys& table : tables) table.encoding = type;
  ThreadPool pool(threads);
  Shards shards;
  std::vector<std::unique_ptr<Residuals>> residuals;
  std::vector<std::vector<float>> undo(2);
  std::vector<Feedback> feedback(2);
  std::vector<std::vector<std::byte>> sent;
  for (int push = 0; push < 3; ++push) {
    shards.Plan(tables, RoutingOf(3), repeats, pool);
    for (size_t t = 0; t < 2 && residual_rows_max > 0; ++t) {
      if (push == 0) {
        residuals.push_back(std::make_unique<Residuals>(kDims[t], residual_rows_max));
      }
      undo[t].resize(shards.distinct_count(t) * residuals[t]->undo_floats());
      feedback[t] = {residuals[t].get(), undo[t].data()};
    }
    std::vector<std::byte*> to;
    const size_t first = sent.size();
    for (const auto& shard : shards.shards()) sent.emplace_back(shard.value_bytes);
    for (size_t s = first; s < sent.size(); ++s) to.push_back(sent[s].data());
    const float* grads[] = {batch.grads[0].data(), batch.grads[1].data()};
    shards.GatherGradients({Best(), grads, feedback, to}, [](std::span<const uint64_t>) {}, pool);
    // The second push is refused by one server.
    if (push == 1) shards.ReturnFeedback(feedback, {false, true, false});
  }
  return sent;
}

TEST(ThreadsDoNotChangeWhatIsSent) {
  const Batch batch(4);
  for (const Repeats repeats : {Repeats::kJoin, Repeats::kKeep}) {
    for (const ValueType type : {ValueType::kFloat16, ValueType::kBfloat16, ValueType::kInt8}) {
      // None; enough for all keys; so few that some are dropped within a push.
      for (const size_t residual_rows_max : {size_t{0}, size_t{100'000}, size_t{1000}}) {
        const auto sent = PushThrice(batch, repeats, 1, type, residual_rows_max);
        CHECK_TRUE(sent == PushThrice(batch, repeats, 4, type, residual_rows_max));
        if (residual_rows_max == 0) CHECK_TRUE(sent[0] == sent[3]);
        // The server that refused is sent the same again, the others are not.
        if (residual_rows_max == 100'000) CHECK_TRUE(sent[0] != sent[3] && sent[4] == sent[7]);
      }
    }
    CHECK_TRUE(PushThrice(batch, repeats, 1, ValueType::kFloat32, 0) ==
               PushThrice(batch, repeats, 4, ValueType::kFloat32, 0));
  }
}

TEST(RowsReachEveryKeyInWhateverPiecesTheyCome) {
  std::mt19937_64 random(1);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Batch batch(seed);
    ThreadPool pool(3);
    Shards shards;
    shards.Plan(batch.tables, RoutingOf(3), Repeats::kJoin, pool);
    std::vector<std::vector<float>> replies;
    for (const Shards::Shard& shard : shards.shards()) {
      std::vector<float>& reply = replies.emplace_back();
      size_t at = 0;
      for (size_t t = 0; t < 2; ++t) {
        for (uint32_t k = 0; k < shard.sections[t].count; ++k, ++at) {
          for (size_t c = 0; c < kDims[t]; ++c) {
            reply.push_back(ValueOf(kSalts[t], shard.keys[at], c));
          }
        }
      }
    }
    std::vector<float> out[2];
    for (size_t t = 0; t < 2; ++t) out[t].assign(batch.keys[t].size() * kDims[t], -1);
    float* const outs[] = {out[0].data(), out[1].data()};
    std::vector<const std::byte*> rows(3);
    std::vector<uint64_t> bytes(3);
    const std::vector<bool> skipped = {false, false, seed % 2 == 1};
    Shards::Scatter scatter{Best(), rows, bytes, skipped, outs};
    const auto all_there = [&] {
      for (size_t s = 0; s < 3; ++s) {
        if (bytes[s] < replies[s].size() * sizeof(float)) return false;
      }
      return true;
    };
    while (!all_there()) {
      const size_t s = random() % 3;
      rows[s] = reinterpret_cast<const std::byte*>(replies[s].data());
      bytes[s] = std::min<uint64_t>(bytes[s] + 20'001, replies[s].size() * sizeof(float));
      shards.ScatterRows(scatter, pool);
    }
    for (size_t t = 0; t < 2; ++t) {
      for (size_t i = 0; i < batch.keys[t].size(); ++i) {
        const uint64_t key = batch.keys[t][i];
        const bool is_skipped = skipped[SlotOf(MixKey(kSalts[t], key)) % 3];
        for (size_t c = 0; c < kDims[t]; ++c) {
          CHECK_EQ(out[t][i * kDims[t] + c], is_skipped ? -1 : ValueOf(kSalts[t], key, c));
        }
      }
    }
  }
}

TEST(PlanOfTheCallBeforeIsTakenOverOnlyIfNothingDiffers) {
  Batch batch(1);
  const auto routing = RoutingOf(2);
  ThreadPool pool(3);
  Shards shards;
  shards.Plan(batch.tables, routing, Repeats::kJoin, pool);
  const uint64_t* planned = shards.shards()[0].keys.data();
  const size_t count = shards.shards()[0].keys.size() + shards.shards()[1].keys.size();
  shards.Plan(batch.tables, routing, Repeats::kJoin, pool);
  CHECK_TRUE(shards.shards()[0].keys.data() == planned);
  batch.keys[1].back() = 1'000'000;
  shards.Plan(batch.tables, routing, Repeats::kJoin, pool);
  const auto has_new_key = [](const Shards::Shard& shard) {
    return std::find(shard.keys.begin(), shard.keys.end(), 1'000'000U) != shard.keys.end();
  };
  CHECK_TRUE(has_new_key(shards.shards()[0]) || has_new_key(shards.shards()[1]));
  shards.Plan(batch.tables, routing, Repeats::kKeep, pool);
  CHECK_EQ(shards.shards()[0].keys.size() + shards.shards()[1].keys.size(),
           batch.keys[0].size() + batch.keys[1].size());
  shards.Plan(batch.tables, RoutingOf(1), Repeats::kJoin, pool);
  CHECK_EQ(shards.shards().size(), 1U);
  CHECK_TRUE(shards.shards()[0].keys.size() + 1 >= count);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
