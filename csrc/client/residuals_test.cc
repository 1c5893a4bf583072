// Error feedback: what is sent adds up, retries count once, memory stays within its limit.
#include "client/residuals.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "base/hash.h"
#include "base/testing.h"
#include "optim/row_codec.h"

namespace embery {
namespace {

constexpr uint32_t kDim = 5;
constexpr ValueType kNarrow[] = {ValueType::kFloat16, ValueType::kBfloat16, ValueType::kInt8};
using Row = std::vector<float>;

const Kernels& Best() { return *FindKernels("auto").value(); }

// One push of one key: what a server gets, and what would take it back.
struct Sent {
  Row received = Row(kDim);
  Row undo = Row(2 * size_t{kDim});
};

Sent Send(Residuals& residuals, ValueType type, uint64_t key, Row grad) {
  Sent sent;
  std::vector<std::byte> encoded(ValueBytes(type, kDim));
  const MutexLock lock(residuals.mutex());
  residuals.Encode(Best(), type, key, grad.data(), encoded.data(), sent.undo.data());
  DecodeRows(Best(), type, encoded.data(), 1, kDim, sent.received.data());
  return sent;
}

void Return(Residuals& residuals, uint64_t key, const Sent& sent) {
  const MutexLock lock(residuals.mutex());
  residuals.Return(key, sent.undo.data());
}

Row RandomGrad(std::mt19937_64& random) {
  std::normal_distribution<float> normal(0.1f, 1.0f);
  Row grad(kDim);
  for (float& value : grad) value = normal(random);
  return grad;
}

TEST(WhatIsSentAddsUpToTheGradients) {
  std::mt19937_64 random(1);
  // The third column is too small for int8 to ever see without feedback.
  const Row grad = {1.0f, -0.37f, 0.001f, 0.25f, 3e-5f};
  constexpr int kPushes = 20'000;
  for (const ValueType type : kNarrow) {
    Residuals residuals(kDim, 16);
    std::vector<double> with(kDim);
    std::vector<double> without(kDim);
    Row rounded(kDim);
    std::vector<std::byte> encoded(ValueBytes(type, kDim));
    EncodeRow(Best(), type, grad.data(), kDim, encoded.data());
    DecodeRows(Best(), type, encoded.data(), 1, kDim, rounded.data());
    for (int push = 0; push < kPushes; ++push) {
      const Sent sent = Send(residuals, type, 7, grad);
      for (size_t i = 0; i < kDim; ++i) {
        with[i] += sent.received[i];
        without[i] += rounded[i];
      }
    }
    double worst = 0;
    for (size_t i = 0; i < kDim; ++i) {
      // But for one residual, of at most a quantum, and what float32 rounds.
      CHECK_TRUE(std::abs(with[i] - kPushes * double{grad[i]}) < 0.02);
      worst = std::max(worst, std::abs(without[i] - kPushes * double{grad[i]}));
    }
    CHECK_TRUE(worst > 0.4);
  }
}

TEST(PushThatWasNotAppliedLeavesNoTrace) {
  std::mt19937_64 random(2);
  for (const ValueType type : kNarrow) {
    Residuals tried_twice(kDim, 64);
    Residuals tried_once(kDim, 64);
    for (int push = 0; push < 1000; ++push) {
      const uint64_t key = random() % 20;
      const Row grad = RandomGrad(random);
      Sent sent = Send(tried_twice, type, key, grad);
      for (uint64_t refusals = random() % 3; refusals > 0; --refusals) {
        Return(tried_twice, key, sent);
        const Sent again = Send(tried_twice, type, key, grad);
        CHECK_TRUE(again.received == sent.received);
        sent = again;
      }
      CHECK_TRUE(sent.received == Send(tried_once, type, key, grad).received);
    }
  }
}

TEST(PushesBetweenATryAndItsReturnLoseNothing) {
  std::mt19937_64 random(3);
  Residuals residuals(kDim, 64);
  std::vector<double> given(kDim);
  std::vector<double> received(kDim);
  const auto count = [&](const Row& grad, const Sent& sent) {
    for (size_t i = 0; i < kDim; ++i) {
      given[i] += grad[i];
      received[i] += sent.received[i];
    }
  };
  for (int push = 0; push < 2000; ++push) {
    const Sent refused = Send(residuals, ValueType::kInt8, 1, RandomGrad(random));
    const Row grad = RandomGrad(random);
    count(grad, Send(residuals, ValueType::kInt8, 1, grad));
    Return(residuals, 1, refused);
  }
  // What was returned goes out with the next that nothing disturbs.
  const Row nothing(kDim);
  for (int push = 0; push < 2; ++push) {
    count(nothing, Send(residuals, ValueType::kInt8, 1, nothing));
  }
  for (size_t i = 0; i < kDim; ++i) CHECK_TRUE(std::abs(given[i] - received[i]) < 0.001);
}

TEST(GradientThatIsNotFiniteIsSentAsSuchAndTheResidualWaits) {
  Residuals residuals(kDim, 16);
  Residuals undisturbed(kDim, 16);
  const Row grad = {1.0f, 0.3f, 0.3f, 0.3f, 0.3f};
  for (Residuals* each : {&residuals, &undisturbed}) Send(*each, ValueType::kInt8, 1, grad);
  const Sent bad = Send(residuals, ValueType::kInt8, 1, {1, NAN, 1, 1, 1});
  for (const float value : bad.received) CHECK_TRUE(std::isnan(value));
  CHECK_TRUE(Send(residuals, ValueType::kInt8, 1, grad).received ==
             Send(undisturbed, ValueType::kInt8, 1, grad).received);
  const Sent worse = Send(residuals, ValueType::kInt8, 1, {INFINITY, 1, 1, 1, 1});
  Return(residuals, 1, worse);
  CHECK_TRUE(Send(residuals, ValueType::kInt8, 1, grad).received ==
             Send(undisturbed, ValueType::kInt8, 1, grad).received);
}

TEST(WhatSaturatesIsSentLater) {
  Residuals residuals(kDim, 16);
  double received = Send(residuals, ValueType::kFloat16, 1, Row(kDim, 200'000.0f)).received[0];
  CHECK_EQ(received, 65504.0);
  for (int push = 0; push < 3; ++push) {
    received += Send(residuals, ValueType::kFloat16, 1, Row(kDim, 0.0f)).received[0];
  }
  CHECK_EQ(received, 200'000.0);
}

TEST(ResidualsOfTheLastKeysStayAndOthersAreDroppedAndCounted) {
  constexpr size_t kRowsMax = 2000;
  Residuals residuals(kDim, kRowsMax);
  const Row grad = {1.0f, 0.334f, 0.334f, 0.334f, 0.334f};
  const Row first = Send(residuals, ValueType::kInt8, 0, grad).received;
  const Row second = Send(residuals, ValueType::kInt8, 0, grad).received;
  CHECK_TRUE(first != second);
  // So many others that key 0 just stays, and then one more.
  for (uint64_t key = 1; key < kRowsMax; ++key) Send(residuals, ValueType::kInt8, key, grad);
  CHECK_EQ(residuals.stats().rows, kRowsMax);
  CHECK_EQ(residuals.stats().dropped, 0U);
  for (uint64_t key = kRowsMax / 2; key < kRowsMax; ++key) {
    CHECK_TRUE(Send(residuals, ValueType::kInt8, key, grad).received == second);
  }
  Send(residuals, ValueType::kInt8, kRowsMax, grad);
  CHECK_EQ(residuals.stats().rows, kRowsMax / 2 + 1);
  CHECK_EQ(residuals.stats().dropped, kRowsMax / 2);
  CHECK_TRUE(Send(residuals, ValueType::kInt8, 0, grad).received == first);
  residuals.Clear();
  CHECK_EQ(residuals.stats().rows, 0U);
  CHECK_TRUE(Send(residuals, ValueType::kInt8, kRowsMax, grad).received == first);
}

TEST(TheSamePushesDropTheSameResiduals) {
  std::mt19937_64 random(4);
  constexpr size_t kRowsMax = 30;
  Residuals residuals(kDim, kRowsMax);
  Residuals twin(kDim, kRowsMax);
  for (int push = 0; push < 5000; ++push) {
    const uint64_t key = Fmix64(random() % 100);
    const Row grad = RandomGrad(random);
    CHECK_TRUE(Send(residuals, ValueType::kInt8, key, grad).received ==
               Send(twin, ValueType::kInt8, key, grad).received);
    CHECK_TRUE(residuals.stats().rows <= kRowsMax);
  }
  CHECK_EQ(residuals.stats().dropped, twin.stats().dropped);
  CHECK_TRUE(residuals.stats().dropped > 0);
}

TEST(ImportedResidualsGoOnAsIfNothingHadHappened) {
  std::mt19937_64 random(5);
  constexpr size_t kRowsMax = 30;
  Residuals undisturbed(kDim, kRowsMax);
  auto moved = std::make_unique<Residuals>(kDim, kRowsMax);
  for (int push = 0; push < 3000; ++push) {
    // Now and then all of it goes to another process, in any state of the generations.
    if (random() % 7 == 0) {
      const Residuals::Kept kept = moved->Export();
      CHECK_EQ(kept.keys.size(), moved->stats().rows);
      moved = std::make_unique<Residuals>(kDim, kRowsMax);
      moved->Import(kept.keys, kept.rows.data(), kept.older);
    }
    const uint64_t key = Fmix64(random() % 100);
    const Row grad = RandomGrad(random);
    CHECK_TRUE(Send(*moved, ValueType::kInt8, key, grad).received ==
               Send(undisturbed, ValueType::kInt8, key, grad).received);
    CHECK_EQ(moved->stats().rows, undisturbed.stats().rows);
  }
}

TEST(ImportReplacesAllAndAddsUpWhatIsThereTwice) {
  Residuals residuals(kDim, 16);
  Send(residuals, ValueType::kInt8, 9, {1.0f, 0.3f, 0, 0, 0});
  const std::vector<uint64_t> keys = {1, 2, 1};
  std::vector<float> rows(keys.size() * kDim, 0.25f);
  rows[0] = 0.5f;
  residuals.Import(keys, rows.data(), 2);
  CHECK_EQ(residuals.stats().rows, 2U);
  const Residuals::Kept kept = residuals.Export();
  CHECK_TRUE(kept.keys == (std::vector<uint64_t>{2, 1}));
  CHECK_EQ(kept.older, 1U);
  CHECK_EQ(kept.rows[kDim], 0.75f);
  CHECK_EQ(kept.rows[kDim + 1], 0.5f);
}

TEST(ThreadsLoseNothingOfASharedKey) {
  Residuals residuals(kDim, 64);
  constexpr int kThreads = 4;
  constexpr int kPushes = 2000;
  std::vector<double> sums(kThreads);
  {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&residuals, &sum = sums[static_cast<size_t>(t)]] {
        for (int push = 0; push < kPushes; ++push) {
          const Sent sent = Send(residuals, ValueType::kInt8, 1, {1.0f, 0.3f, 0, 0, 0});
          sum += sent.received[1];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  CHECK_TRUE(std::abs(total - kThreads * kPushes * double{0.3f}) < 0.02);
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
