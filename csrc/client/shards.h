// A call's keys as they go to the servers: distinct, shared out by owner.
//
// Thread-safety: none; a Shards is used by one call at a time, whose work the pool's threads share.
// Ownership: owns its arrays and keeps them from call to call; the keys of the call are the
// caller's. Invariants: a server's keys stand table by table, each table's in order of first
// appearance.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/hash.h"
#include "base/thread_pool.h"
#include "batch/distinct.h"
#include "client/residuals.h"
#include "optim/kernels.h"
#include "wire/messages.h"

namespace embery {

struct TableKeys {
  uint64_t salt;
  uint32_t dim;
  std::span<const uint64_t> keys;
  ValueType encoding = ValueType::kFloat32;  // Of what travels for them.
};

// Which server owns each slot, and the numbers of all servers, ascending.
struct ClientRouting {
  uint64_t version = 0;
  std::array<uint16_t, kSlotCount> shard_of_slot{};  // Index in `servers`.
  std::vector<uint16_t> servers;
};

// Whether equal keys of a table travel once or as often as they were given.
enum class Repeats : uint8_t { kJoin, kKeep };

class Shards {
 public:
  // What goes to one server.
  struct Shard {
    std::vector<Section> sections;  // One a table.
    std::vector<uint64_t> keys;
    uint64_t value_bytes = 0;
    uint64_t float_count = 0;
  };

  // Costs little if the keys and the rest, encodings aside, are those of the call before: the push
  // of a batch comes after its pull.
  void Plan(std::span<const TableKeys> tables, std::shared_ptr<const ClientRouting> routing,
            Repeats repeats, ThreadPool& pool);

  const std::vector<Shard>& shards() const { return shards_; }

  // Distinct keys of a table: as many as it has undo_floats() for in a Feedback.
  size_t distinct_count(size_t table) const { return tables_[table].distinct.size(); }

  // Gradients on their way into the shards.
  struct Gather {
    const Kernels& kernels;
    std::span<const float* const> grads;  // (keys, dim) of each table.
    std::span<const Feedback> feedback;   // Of each table; none for float32.
    std::span<std::byte* const> to;       // Where the value bytes of each shard go.
  };
  // Sums the gradients of each travelling key, in the order that the store would, and encodes the
  // sum where it goes. `progressed` is called now and then with how many of each shard's bytes are
  // there, and at the end.
  using Progressed = std::function<void(std::span<const uint64_t> bytes)>;
  void GatherGradients(const Gather& gather, const Progressed& progressed, ThreadPool& pool);

  // Sets the residuals back of the keys of the shards that are set in `unapplied`.
  void ReturnFeedback(std::span<const Feedback> feedback, const std::vector<bool>& unapplied) const;

  // Rows of the shards on their way to where their keys were given.
  struct Scatter {
    const Kernels& kernels;
    std::span<const std::byte* const> rows;  // Of each shard; null: none are there yet.
    std::span<const uint64_t> bytes;         // How many of them are there.
    const std::vector<bool>& skipped;        // Shards whose keys stay as they are.
    std::span<float* const> out;             // (keys, dim) of each table.
    size_t table = 0;                        // Where to go on.
    size_t key = 0;
  };
  // Decodes rows, in the order of the keys, up to the first that is not there.
  void ScatterRows(Scatter& scatter, ThreadPool& pool) const;

  // The same for one byte a key.
  void ScatterFlags(std::span<const uint8_t* const> flags, std::span<uint8_t* const> out) const;

  // Sets `out[t][i]` to 1 where `refused[s]` of the key's shard is set, else to 0; returns how
  // many.
  size_t MarkRefused(const std::vector<bool>& refused, std::span<uint8_t* const> out) const;

 private:
  struct Place {
    uint32_t shard;
    uint32_t row;  // Among the shard's rows of the table.
  };
  struct Table {
    uint64_t salt = 0;
    uint32_t dim = 0;
    ValueType encoding = ValueType::kFloat32;
    size_t row_bytes = 0;
    size_t count = 0;
    Buffer<uint64_t> keys;  // As given.
    std::vector<uint64_t> distinct;
    Buffer<RowIndex> which;            // Of each given key: its position among the distinct ones.
    Buffer<Place> places;              // Of each distinct key.
    std::vector<uint64_t> first_key;   // Of each shard: where the table's keys begin.
    std::vector<uint64_t> first_byte;  // And its values.
    DistinctFinder finder;
  };

  bool HasKeys(std::span<const TableKeys> tables) const;
  static void FindDistinct(const TableKeys& keys, Repeats repeats, Table& table);
  // Fills occurrences_; returns where each distinct key's end there, until the next call.
  std::span<const uint32_t> GroupOccurrences(const Table& table);
  // Sums the gradients of distinct keys begin..end-1 of table t, whose wave of keys begins at
  // `wave`, and encodes them unless there is a residual to be added.
  void SumGradients(const Gather& gather, size_t t, std::span<const uint32_t> ends, size_t wave,
                    size_t begin, size_t end) const;
  // Adds the residuals of distinct keys begin..end-1 to their sums, and encodes them, in order.
  void EncodeWithFeedback(const Gather& gather, size_t t, size_t begin, size_t end) const;
  std::byte* PlaceOf(const Gather& gather, const Table& table, size_t distinct) const;
  // Decodes rows to keys begin..end-1 of a table; returns the first whose row is not there.
  static size_t CopyRows(const Scatter& scatter, const Table& table, float* out, size_t begin,
                         size_t end);
  bool HasAllRows(const Scatter& scatter) const;
  void ShareOut(const TableKeys& keys, const ClientRouting& routing, Table& table);
  // Gives the values of the shards their places.
  void LayOut(std::span<const TableKeys> tables);

  std::vector<Table> tables_;
  std::vector<Shard> shards_;
  std::shared_ptr<const ClientRouting> routing_;
  Repeats repeats_ = Repeats::kJoin;
  Buffer<uint32_t> ends_;
  Buffer<uint32_t> occurrences_;
  Buffer<float> sums_;  // Of a wave of distinct keys, where they are not sent as they are.
};

}  // namespace embery
