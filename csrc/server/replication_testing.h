// Servers without transports, in one process, whose copies the tests carry by hand.
//
// Thread-safety: a Node is as safe as its service; a Cluster is changed by one thread at a time.
// Ownership: a Cluster owns its nodes; a Carrier borrows its two.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/testing.h"
#include "server/service.h"
#include "table/store_fixture.h"

namespace embery {

inline constexpr uint32_t kDim = 2;
inline constexpr std::chrono::seconds kPatience{30};

inline TableSpec Spec(const std::string& name, uint64_t salt) {
  TableSpec spec = PlainSpec(kDim);
  spec.name = name;
  spec.salt = salt;
  return spec;
}

// What happens to be awkward: keys that are held back at first, rows that make room for others,
// state, rounding.
inline TableSpec AwkwardSpec() {
  TableSpec spec = Spec("awkward", 77);
  spec.optimizer = {.kind = OptimizerKind::kAdam, .lr = 0.1f};
  spec.value_type = ValueType::kInt8;
  spec.admission = {.kind = AdmissionSpec::Kind::kMinCount, .min_count = 2};
  spec.eviction = {.kind = EvictionSpec::Kind::kLru, .rows_max = 300};
  return spec;
}

// A server without its transports.
class Node {
 public:
  explicit Node(ServerNumber number)
      : number_(number),
        store_(2, *FindKernels("auto").value()),
        service_(store_, pool_, number, "") {
    for (const TableSpec& spec : {Spec("plain", 5), AwkwardSpec()}) {
      CHECK_TRUE(service_.AddTable(spec.salt, store_.CreateTable(spec).value()).ok());
    }
  }
  ~Node() { service_.Stop(); }

  ServerNumber number() const { return number_; }
  Service& service() { return service_; }
  Followers& followers() { return service_.followers(); }
  Table& table(TableId id) { return *store_.FindTable(id); }

  void Handle(FrameType type, std::span<const std::byte> bytes, Handler::Done done) {
    Request request{{type, 1, static_cast<uint32_t>(bytes.size())},
                    Body::Take(pool_, bytes.size())};
    if (!bytes.empty()) std::memcpy(request.body.data(), bytes.data(), bytes.size());
    service_.Handle(std::move(request), std::move(done));
  }

 private:
  const ServerNumber number_;
  BodyPool pool_;
  Store store_;
  Service service_;
};

inline ReplyHead HeadOf(const Reply& reply) {
  std::vector<std::byte> body(reply.head.begin() + kHeaderBytes, reply.head.end());
  body.insert(body.end(), reply.rows.bytes().begin(), reply.rows.bytes().end());
  const Result<ReplyMessage> message = DecodeReply(body);
  CHECK_TRUE(message.ok());
  return message.ok() ? message.value().head : ReplyHead{};
}

// Carries frames from one node to another, as long as it has some to carry.
inline size_t Carry(Node& from, Node& to) {
  size_t carried = 0;
  while (true) {
    const auto frame = from.followers().Next(to.number(), std::chrono::steady_clock::now());
    if (!frame.has_value() || frame->body.empty()) return carried;
    ReplyHead head;
    to.Handle(FrameType::kCopy, frame->body, [&](const Reply& reply) { head = HeadOf(reply); });
    if (head.moved > 0) {
      from.followers().Refused(to.number());
      return carried;
    }
    if (head.code != StatusCode::kOk) return carried;
    from.followers().Acknowledge(to.number(), frame->number);
    ++carried;
  }
}

// Carries them until it is destroyed.
class Carrier {
 public:
  Carrier(Node& from, Node& to)
      : thread_([&from, &to, this] {
          while (!stopping_) {
            if (Carry(from, to) == 0) std::this_thread::yield();
          }
        }) {}
  ~Carrier() {
    stopping_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

struct Answered {
  std::atomic<int> count{0};
  std::atomic<int> moved{0};
  std::atomic<int> failed{0};
};

class Cluster {
 public:
  explicit Cluster(int nodes) {
    for (int i = 0; i < nodes; ++i) {
      nodes_.push_back(std::make_unique<Node>(static_cast<ServerNumber>(i)));
    }
    owners_.assign(kSlotCount, 0);
    backups_.assign(kSlotCount, kNoServer);
    changed_at_.assign(kSlotCount, 1);
  }

  Node& node(size_t i) { return *nodes_[i]; }
  void Own(uint32_t begin, uint32_t end, ServerNumber owner, ServerNumber backup) {
    for (uint32_t slot = begin; slot < end; ++slot) {
      if (owners_[slot] != owner) changed_at_[slot] = version_ + 1;
      owners_[slot] = owner;
      backups_[slot] = backup;
    }
  }
  void Next(std::initializer_list<size_t> told) {
    ++version_;
    for (const size_t i : told) Tell(i);
  }
  void Tell(size_t i) {
    CHECK_TRUE(node(i).service().SetRouting(version_, owners_, backups_, changed_at_).ok());
  }
  uint64_t version() const { return version_; }

  // A push to one node: of its keys all that the node owns.
  void Push(size_t to, uint64_t sequence, const std::vector<uint64_t>& keys, Answered& answered,
            uint64_t version = 0, uint64_t client = 9) {
    const Section sections[] = {{5, kDim, static_cast<uint32_t>(keys.size())},
                                {77, kDim, static_cast<uint32_t>(keys.size())}};
    const PushHead head{version == 0 ? version_ : version, client, sequence, 0, 0, 1, 100};
    std::vector<std::byte> body = EncodePushHead(head, sections);
    const std::vector<float> grads(keys.size() * kDim, -1.0f);
    const auto add = [&body](auto bytes) { body.insert(body.end(), bytes.begin(), bytes.end()); };
    for (int i = 0; i < 2; ++i) add(std::as_bytes(std::span(keys)));
    for (int i = 0; i < 2; ++i) add(std::as_bytes(std::span(grads)));
    node(to).Handle(FrameType::kPush, body, [&answered](const Reply& reply) {
      const ReplyHead made = HeadOf(reply);
      answered.moved += made.moved > 0 ? 1 : 0;
      answered.failed += made.code != StatusCode::kOk ? 1 : 0;
      ++answered.count;
    });
  }

 private:
  std::vector<std::unique_ptr<Node>> nodes_;
  uint64_t version_ = 0;
  std::vector<uint16_t> owners_;
  std::vector<uint16_t> backups_;
  std::vector<uint64_t> changed_at_;
};

inline std::vector<SavedRow> RowsOf(Table& table, SlotGroup& group) {
  std::vector<SavedRow> rows;
  const RecordLayout& layout = table.layout();
  group.VisitSlots(0, kSlotCount, [&](const RowView& row) { rows.push_back(Saved(row, layout)); });
  return rows;
}

// All of the owner's rows, candidates, tombstones and LSNs are in the copy, and nothing else.
inline void CheckEqual(Node& owner, Node& copy) {
  for (TableId id = 0; id < 2; ++id) {
    for (uint32_t group = 0; group < kGroupCount; ++group) {
      SlotGroup& mine = owner.table(id).group(group);
      SlotGroup& theirs = copy.table(id).copies(group);
      CHECK_TRUE(RowsOf(owner.table(id), mine) == RowsOf(copy.table(id), theirs));
      const SlotGroup::State a = mine.ExportState();
      const SlotGroup::State b = theirs.ExportState();
      CHECK_TRUE(a.slot_lsns == b.slot_lsns);
      CHECK_TRUE(a.candidates == b.candidates);
      CHECK_EQ(a.tombstones.size(), b.tombstones.size());
    }
  }
}

inline std::vector<uint64_t> SomeKeys(std::mt19937_64& random, size_t count) {
  std::vector<uint64_t> keys(count);
  for (uint64_t& key : keys) key = random() % 1000;
  return keys;
}

inline float ValueOf(Node& node, uint64_t key) {
  float value = 0;
  const MixedKey mixed = MixKey(5, key);
  node.table(0).group(GroupOf(mixed)).VisitRow(mixed, [&](const RowView& row) {
    std::memcpy(&value, row.values, sizeof(value));
  });
  return value;
}

}  // namespace embery
