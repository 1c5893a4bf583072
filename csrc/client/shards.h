// A call's keys as they go to the servers: distinct, shared out by owner.
//
// Thread-safety: none; a Shards is used by one call at a time. Ownership: owns its arrays and keeps
// them from call to call; the keys of the call are the caller's. Invariants: a server's keys stand
// table by table, each table's in order of first appearance.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/hash.h"
#include "batch/distinct.h"
#include "optim/kernels.h"
#include "wire/messages.h"

namespace embery {

struct TableKeys {
  uint64_t salt;
  uint32_t dim;
  std::span<const uint64_t> keys;
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
    uint64_t floats = 0;
  };

  void Plan(std::span<const TableKeys> tables, const ClientRouting& routing, Repeats repeats);

  const std::vector<Shard>& shards() const { return shards_; }

  // Sums of the gradients of each travelling key, in the order that the store would: `grads[t]` is
  // (keys, dim) of table t, `to[s]` receives the floats of shard s.
  void GatherGradients(const Kernels& kernels, std::span<const float* const> grads,
                       std::span<float* const> to);

  // Copies the rows of the shards to where their keys were given: `rows[s]` are the floats of shard
  // s, `out[t]` is (keys, dim) of table t. A null entry of `rows` leaves its keys as they are.
  void ScatterRows(std::span<const float* const> rows, std::span<float* const> out) const;

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
    uint32_t dim = 0;
    size_t count = 0;
    std::vector<uint64_t> distinct;
    Buffer<RowIndex> which;             // Of each given key: its position among the distinct ones.
    Buffer<Place> places;               // Of each distinct key.
    std::vector<uint64_t> first_float;  // Of each shard: where the table's rows begin.
    std::vector<uint64_t> first_key;
  };

  void FindDistinct(const TableKeys& keys, Repeats repeats, Table& table);
  void ShareOut(const TableKeys& keys, const ClientRouting& routing, Table& table);

  std::vector<Table> tables_;
  std::vector<Shard> shards_;
  DistinctFinder finder_;
  Buffer<uint32_t> ends_;
  Buffer<uint32_t> occurrences_;
};

}  // namespace embery
