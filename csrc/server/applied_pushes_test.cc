// What is remembered of pushes, against a set of everything that was applied.
#include "server/applied_pushes.h"

#include <set>
#include <thread>
#include <tuple>

#include "base/testing.h"

namespace embery {
namespace {

SlotSet Slots(std::initializer_list<uint32_t> slots) {
  SlotSet set;
  for (const uint32_t slot : slots) set.Add(slot);
  return set;
}

void Apply(AppliedPushes& applied, const PushIdentity& push, const SlotSet& slots) {
  CHECK_TRUE(applied.Begin(push, slots).ok());
  applied.Finish({push, slots});
}

TEST(PushThatComesAgainIsDoneWhereItWasApplied) {
  AppliedPushes applied;
  Apply(applied, {7, 1}, Slots({3, 4095}));
  CHECK_TRUE(applied.Import(4, 5, {}).ok());
  const auto again = applied.Begin({7, 1}, Slots({3, 4, 4095})).value();
  CHECK_TRUE(again.done == Slots({3, 4095}));
  CHECK_TRUE(!again.counts);
  applied.Finish({{7, 1}, Slots({3, 4, 4095})});
  CHECK_TRUE(applied.Begin({7, 1}, Slots({4})).value().done == Slots({4}));
  applied.Abandon({7, 1});
  CHECK_TRUE(applied.Begin({8, 1}, Slots({3})).value().counts);
}

TEST(PushThatFailedMayComeAgain) {
  AppliedPushes applied;
  CHECK_TRUE(applied.Begin({7, 1}, Slots({3})).value().counts);
  applied.Abandon({7, 1});
  const auto again = applied.Begin({7, 1}, Slots({3})).value();
  CHECK_TRUE(again.counts && again.done.empty());
}

TEST(EqualPushWaitsForTheOneUnderWay) {
  AppliedPushes applied;
  CHECK_TRUE(applied.Begin({7, 1}, Slots({3})).ok());
  std::thread second([&applied] {
    CHECK_TRUE(applied.Begin({7, 1}, Slots({3})).value().done == Slots({3}));
    applied.Abandon({7, 1});
  });
  applied.Finish({{7, 1}, Slots({3})});
  second.join();
}

TEST(PushBeyondTheWindowIsRefused) {
  AppliedPushes applied;
  Apply(applied, {7, 100}, Slots({3}));
  Apply(applied, {7, 37}, Slots({3}));
  const auto late = applied.Begin({7, 36}, Slots({3}));
  CHECK_TRUE(late.status().code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(applied.Begin({7, 37}, Slots({3})).value().done == Slots({3}));
}

TEST(WindowsMoveWithTheirSlots) {
  AppliedPushes from;
  AppliedPushes to;
  for (uint64_t sequence = 1; sequence <= 90; sequence += 3) {
    Apply(from, {7, sequence}, Slots({10, 20}));
    Apply(to, {7, sequence + 1}, Slots({30}));
  }
  CHECK_TRUE(to.Import(10, 15, from.Export(10, 15)).ok());
  from.Drop(10, 15);
  const auto again = to.Begin({7, 88}, Slots({10, 20, 30})).value();
  CHECK_TRUE(again.done == Slots({10}));
  CHECK_TRUE(!again.counts);
  to.Abandon({7, 88});
  CHECK_TRUE(to.Begin({7, 86}, Slots({10, 30})).value().done == Slots({30}));
  CHECK_TRUE(from.Begin({7, 88}, Slots({20})).value().done == Slots({20}));
  const AppliedPushes::Entry nowhere{7, 15, 1, 1};
  CHECK_TRUE(to.Import(10, 15, {&nowhere, 1}).code() == StatusCode::kInvalidArgument);
}

TEST(PushUnderWayWhenASlotMovesIsAppliedToItOnce) {
  AppliedPushes applied;
  AppliedPushes source;
  // The source applied push 1 to slot 10; here it is counted by slot 30 alone, and 2 not at all
  // yet.
  Apply(source, {7, 1}, Slots({10}));
  Apply(source, {7, 2}, Slots({10}));
  Apply(applied, {7, 1}, Slots({30}));
  CHECK_TRUE(applied.Import(10, 11, source.Export(10, 11)).ok());
  const auto second = applied.Begin({7, 2}, Slots({10, 30})).value();
  CHECK_TRUE(second.done == Slots({10}));
  CHECK_TRUE(!second.counts);
  applied.Finish({{7, 2}, Slots({10, 30})});
  CHECK_TRUE(applied.IsApplied({7, 2}, Slots({10, 30})));
}

TEST(PushThatPassedByASlotIsAppliedToItWhenItComesAgain) {
  AppliedPushes applied;
  Apply(applied, {7, 1}, Slots({10, 30}));
  // Slot 10 is here, but by the sender's routing elsewhere: this part of push 2 was for 30 alone.
  CHECK_TRUE(applied.Begin({7, 2}, Slots({30})).ok());
  applied.Finish({{7, 2}, Slots({30}), Slots({10})});
  const auto again = applied.Begin({7, 2}, Slots({10, 30})).value();
  CHECK_TRUE(again.done == Slots({30}));
  CHECK_TRUE(!again.counts);
  applied.Finish({{7, 2}, Slots({10, 30})});
  CHECK_TRUE(applied.IsApplied({7, 2}, Slots({10, 30})));
  CHECK_TRUE(applied.IsApplied({7, 1}, Slots({10, 30})));
}

TEST(SlotThatCameLongAgoSharesTheCommonWindow) {
  AppliedPushes applied;
  Apply(applied, {7, 1}, Slots({30}));
  CHECK_TRUE(applied.Import(10, 11, {}).ok());
  CHECK_TRUE(!applied.IsApplied({7, 1}, Slots({10})));
  for (uint64_t sequence = 2; sequence <= 1 + AppliedPushes::kWindow; ++sequence) {
    Apply(applied, {7, sequence}, Slots({30}));
  }
  // Its own window, with nothing applied, is gone: what the others have been through it has too.
  CHECK_TRUE(applied.IsApplied({7, 2}, Slots({10})));
  CHECK_EQ(applied.Export(10, 11).size(), 2U);
}

TEST(ClientsBeyondTheLimitAreForgottenByAge) {
  AppliedPushes applied;
  for (uint64_t client = 0; client <= AppliedPushes::kClientsMax; ++client) {
    Apply(applied, {client, 1}, Slots({1}));
    if (client > 0) Apply(applied, {0, client + 1}, Slots({1}));
  }
  CHECK_EQ(applied.clients_forgotten(), 1U);
  CHECK_TRUE(applied.Begin({0, 2 + AppliedPushes::kClientsMax - 1}, Slots({1})).value().done ==
             Slots({1}));
  CHECK_TRUE(applied.Begin({1, 1}, Slots({1})).value().counts);
}

constexpr uint64_t kLease = PushIdentity::kLeases + 5;

TEST(BatchOfALeaseThatIsOlderThanTheWindowWasApplied) {
  AppliedPushes applied;
  for (uint64_t batch = 1; batch <= 200; ++batch) Apply(applied, {kLease, batch}, Slots({3}));
  // A slot that comes with less is told apart.
  AppliedPushes source;
  Apply(source, {kLease, 100}, Slots({4}));
  CHECK_TRUE(applied.Import(4, 5, source.Export(4, 5)).ok());
  const auto again = applied.Begin({kLease, 30}, Slots({3, 4})).value();
  CHECK_TRUE(again.done == Slots({3, 4}));
  CHECK_TRUE(!again.counts);
  applied.Abandon({kLease, 30});
  CHECK_TRUE(applied.IsApplied({kLease, 30}, Slots({3})));
  CHECK_TRUE(applied.Begin({kLease, 190}, Slots({3, 4})).value().done == Slots({3}));
}

TEST(LeaseThatAnotherWorkerHasIsFenced) {
  AppliedPushes applied;
  CHECK_TRUE(applied.Admit({kLease, 1}, 1).ok());
  CHECK_TRUE(applied.Admit({kLease, 1}, 2).ok());
  CHECK_TRUE(applied.Admit({kLease, 2}, 1).code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(applied.Admit({kLease + 1, 2}, 1).ok());
  // A client that is no lease has no token.
  CHECK_TRUE(applied.Admit({7, 1}, 2).ok());
  CHECK_TRUE(applied.Admit({7, 2}, 1).ok());
}

TEST(LeasesThatAreOverAreForgottenAndRefused) {
  AppliedPushes applied;
  for (const uint64_t client : {uint64_t{7}, kLease, kLease + 1}) {
    Apply(applied, {client, 1}, Slots({3}));
  }
  AppliedPushes source;
  Apply(source, {kLease, 1}, Slots({3}));
  applied.RetireLeases(kLease + 1);
  CHECK_TRUE(applied.Admit({kLease, 2}, 9).code() == StatusCode::kInvalidArgument);
  CHECK_TRUE(applied.Admit({kLease + 1, 2}, 9).ok());
  CHECK_TRUE(applied.Import(3, 4, source.Export(3, 4)).ok());
  CHECK_TRUE(!applied.IsApplied({kLease, 1}, Slots({3})));
  CHECK_TRUE(applied.IsApplied({7, 1}, Slots({30})));
  applied.RetireLeases(0);  // Comes late.
  CHECK_TRUE(applied.Admit({kLease, 2}, 9).code() == StatusCode::kInvalidArgument);
}

TEST(LeasesDoNotCountAmongTheClientsThatAreForgotten) {
  AppliedPushes applied;
  Apply(applied, {7, 1}, Slots({1}));
  for (uint64_t lease = 0; lease < 2 * AppliedPushes::kClientsMax; ++lease) {
    Apply(applied, {kLease + lease, 1}, Slots({1}));
  }
  CHECK_EQ(applied.clients_forgotten(), 0U);
  CHECK_TRUE(applied.IsApplied({7, 1}, Slots({1})));
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
