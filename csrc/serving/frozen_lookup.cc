#include "serving/frozen_lookup.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "base/prefetch.h"
#include "batch/bag.h"

namespace embery {
namespace {

// Keys that go through the index together; what is fetched for them fits the nearest caches.
constexpr size_t kBlock = 128;

// Where the row of each of `count` keys lies, null for one that is absent, with the row on its way.
// table_of(i) is the table of key i. Three short loops, each ending in fetches that the next one
// needs, take less time than one loop whose branches hold up the misses.
template <typename TableOf>
size_t LocateIn(const uint64_t* keys, size_t count, TableOf table_of, const std::byte** rows) {
  uint64_t buckets[kBlock];
  for (size_t i = 0; i < count; ++i) {
    const FrozenTable& table = table_of(i);
    buckets[i] = table.BucketOf(keys[i]);
    PrefetchLine(table.StartOf(buckets[i]));
  }
  for (size_t i = 0; i < count; ++i) {
    const FrozenTable& table = table_of(i);
    const uint64_t* first = table.KeysFrom(*table.StartOf(buckets[i]));
    PrefetchLine(first);
    PrefetchLine(first + kFrozenKeysPerBucket - 1);
  }
  size_t found = 0;
  for (size_t i = 0; i < count; ++i) {
    const FrozenTable& table = table_of(i);
    rows[i] = table.FindIn(buckets[i], keys[i]);
    if (rows[i] == nullptr) continue;
    PrefetchBytes(rows[i], table.row_bytes());
    ++found;
  }
  return found;
}

// The same for tables of which some hold changes of a base: what is not there is looked for there.
template <typename TableOf>
size_t Locate(const uint64_t* keys, size_t count, TableOf table_of, const std::byte** rows) {
  size_t found = LocateIn(keys, count, table_of, rows);
  if (found == count) return found;
  size_t missed = 0;
  size_t misses[kBlock];
  uint64_t missed_keys[kBlock];
  for (size_t i = 0; i < count; ++i) {
    if (rows[i] != nullptr || table_of(i).base() == nullptr) continue;
    misses[missed] = i;
    missed_keys[missed++] = keys[i];
  }
  const std::byte* of_base[kBlock];
  const auto base_of = [&](size_t m) -> const FrozenTable& { return *table_of(misses[m]).base(); };
  found += LocateIn(missed_keys, missed, base_of, of_base);
  for (size_t m = 0; m < missed; ++m) rows[misses[m]] = of_base[m];
  return found;
}

// How many keys a feature has in all samples.
size_t KeysOf(const FrozenBatch& batch, size_t feature) {
  const int64_t* lengths = batch.lengths.data() + feature * batch.samples;
  return static_cast<size_t>(std::accumulate(lengths, lengths + batch.samples, int64_t{0}));
}

}  // namespace

// Walks the bags of a batch in the order of their keys.
class FrozenLookup::BagWriter {
 public:
  BagWriter(const FrozenLookup& lookup, const FrozenBatch& batch, float* out)
      : lookup_(lookup), batch_(batch), out_(out), scratch_(lookup.dim_max_) {
    SkipEmpty();
  }

  // Takes in the row of the next key.
  void Add(const std::byte* stored, float weight) {
    const Feature& feature = lookup_.features_[feature_];
    const float* row = lookup_.zeros_.data();
    if (stored != nullptr && feature.decode == nullptr) {
      row = reinterpret_cast<const float*>(stored);
    } else if (stored != nullptr) {
      feature.decode(stored, feature.dim, scratch_.data());
      row = scratch_.data();
    }
    (taken_ == 0 ? feature.set : feature.add)(row, weight, feature.dim, to_);
    if (++taken_ == length_) Finish();
  }

 private:
  void Finish() {
    const Feature& feature = lookup_.features_[feature_];
    const float scale = ScaleOf(feature.pooling, static_cast<uint32_t>(length_));
    if (scale != 1.0f) {
      for (size_t d = 0; d < feature.dim; ++d) to_[d] *= scale;
    }
    taken_ = 0;
    Next();
    SkipEmpty();
  }

  // Goes to the next bag that has keys; fills those before it with zeros.
  void SkipEmpty() {
    for (; bag_ < batch_.lengths.size(); Next()) {
      const Feature& feature = lookup_.features_[feature_];
      length_ = static_cast<size_t>(batch_.lengths[bag_]);
      if (length_ != 0) return;
      std::fill_n(to_, feature.dim, 0.0f);
    }
  }

  void Next() {
    ++bag_;
    to_ += lookup_.columns_;
    if (++sample_ < batch_.samples || bag_ == batch_.lengths.size()) return;
    sample_ = 0;
    to_ = out_ + lookup_.features_[++feature_].column;
  }

  const FrozenLookup& lookup_;
  const FrozenBatch& batch_;
  float* const out_;
  std::vector<float> scratch_;
  size_t bag_ = 0;
  size_t feature_ = 0;
  size_t sample_ = 0;
  size_t length_ = 0;  // Keys of the bag, of which so many were taken in.
  size_t taken_ = 0;
  float* to_ = out_;
};

Result<std::unique_ptr<const FrozenLookup>> FrozenLookup::Make(
    Tables tables, const std::vector<FrozenFeature>& features) {
  if (features.empty()) return Status::InvalidArgument("a look-up needs at least one feature");
  for (const FrozenFeature& feature : features) {
    if (feature.table >= tables.size()) {
      return Status::InvalidArgument("a feature names table " + std::to_string(feature.table) +
                                     ", but there are " + std::to_string(tables.size()));
    }
  }
  const Result<const Kernels*> kernels = FindKernels("auto");
  EMBERY_RETURN_IF_ERROR(kernels.status());
  return std::unique_ptr<const FrozenLookup>(
      new FrozenLookup(std::move(tables), features, *kernels.value()));
}

FrozenLookup::FrozenLookup(Tables tables, const std::vector<FrozenFeature>& features,
                           const Kernels& kernels)
    : tables_(std::move(tables)) {
  for (const auto& [number, pooling] : features) {
    const FrozenTable& table = *tables_[number];
    Feature feature{.table = &table,
                    .pooling = pooling,
                    .dim = table.dim(),
                    .column = columns_,
                    .decode = nullptr,
                    .set = nullptr,
                    .add = nullptr};
    if (table.value_type() != ValueType::kFloat32) {
      feature.decode = kernels.decode[static_cast<size_t>(table.value_type())];
    }
    WithDim(table.dim(), [&]<size_t kDim>() {
      feature.set = &SetWeighted<kDim>;
      feature.add = &AddWeighted<kDim>;
    });
    features_.push_back(feature);
    columns_ += table.dim();
    dim_max_ = std::max(dim_max_, table.dim());
  }
  zeros_.resize(dim_max_);
}

Status FrozenLookup::CheckLengths(const FrozenBatch& batch) const {
  if (batch.lengths.size() != features_.size() * batch.samples) {
    return Status::InvalidArgument("expected " + std::to_string(features_.size()) + " x " +
                                   std::to_string(batch.samples) + " lengths, got " +
                                   std::to_string(batch.lengths.size()));
  }
  size_t left = batch.keys.size();
  for (const int64_t length : batch.lengths) {
    if (length < 0 || static_cast<uint64_t>(length) > left) {
      return Status::InvalidArgument("the lengths, of which one is " + std::to_string(length) +
                                     ", do not add up to " + std::to_string(batch.keys.size()) +
                                     " keys");
    }
    left -= static_cast<size_t>(length);
  }
  const bool weighted = !batch.weights.empty();
  if (left == 0 && (!weighted || batch.weights.size() == batch.keys.size())) return Status::Ok();
  return Status::InvalidArgument(std::to_string(batch.keys.size()) + " keys with " +
                                 std::to_string(batch.weights.size()) + " weights and lengths of " +
                                 std::to_string(batch.keys.size() - left) + " together");
}

Result<size_t> FrozenLookup::Pool(const FrozenBatch& batch, float* out) const {
  EMBERY_RETURN_IF_ERROR(CheckLengths(batch));
  BagWriter bags(*this, batch, out);
  const FrozenTable* tables[kBlock];
  const std::byte* rows[kBlock];
  size_t found = 0;
  size_t feature = 0;  // Of the next key, and where the keys of that feature end.
  size_t feature_end = KeysOf(batch, 0);
  for (size_t begin = 0; begin < batch.keys.size(); begin += kBlock) {
    const size_t count = std::min(kBlock, batch.keys.size() - begin);
    for (size_t i = 0; i < count; ++i) {
      while (begin + i == feature_end) feature_end += KeysOf(batch, ++feature);
      tables[i] = features_[feature].table;
    }
    const auto table_of = [&](size_t i) -> const FrozenTable& { return *tables[i]; };
    found += Locate(&batch.keys[begin], count, table_of, rows);
    for (size_t i = 0; i < count; ++i) {
      bags.Add(rows[i], batch.weights.empty() ? 1.0f : batch.weights[begin + i]);
    }
  }
  return found;
}

size_t FrozenLookup::Gather(size_t feature, std::span<const uint64_t> keys, float* out) const {
  const Feature& read = features_[feature];
  const auto table_of = [&](size_t) -> const FrozenTable& { return *read.table; };
  const std::byte* rows[kBlock];
  size_t found = 0;
  for (size_t begin = 0; begin < keys.size(); begin += kBlock) {
    const size_t count = std::min(kBlock, keys.size() - begin);
    found += Locate(&keys[begin], count, table_of, rows);
    for (size_t i = 0; i < count; ++i, out += read.dim) {
      if (rows[i] == nullptr) {
        std::fill_n(out, read.dim, 0.0f);
      } else if (read.decode == nullptr) {
        std::memcpy(out, rows[i], read.dim * sizeof(float));
      } else {
        read.decode(rows[i], read.dim, out);
      }
    }
  }
  return found;
}

}  // namespace embery
