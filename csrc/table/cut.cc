#include "table/cut.h"

#include <string>
#include <utility>

namespace embery {

Status CutMemory::Check() const {
  if (!exceeded()) return Status::Ok();
  return Status::ResourceExhausted(
      "more than " + std::to_string(bytes_max_ >> 20) +
      " MiB of rows changed before they were saved, and were to be kept as they had been; the "
      "checkpoint was given up and training goes on: save to a faster place, or when less is "
      "pushed");
}

GroupCut::GroupCut(CutMemory& memory, std::span<const Lsn, kSlotsPerGroup> slot_lsns,
                   size_t record_bytes)
    : memory_(memory), record_bytes_(record_bytes) {
  std::copy(slot_lsns.begin(), slot_lsns.end(), slot_lsns_.begin());
}

uint64_t GroupCut::BitsOf(uint32_t slot_begin, uint32_t slot_end) {
  uint64_t bits = 0;
  for (uint32_t slot = slot_begin; slot < slot_end; ++slot) {
    bits |= uint64_t{1} << (slot % kSlotsPerGroup);
  }
  return bits;
}

bool GroupCut::Take(size_t bytes) {
  if (memory_.exceeded()) return false;
  bytes_ += bytes;
  return memory_.Take(bytes);
}

void GroupCut::Give(size_t bytes) {
  bytes_ -= bytes;
  memory_.Give(bytes);
}

void GroupCut::Keep(MixedKey mixed, const std::byte* record) {
  const uint32_t slot = SlotInGroup(TagOf(mixed));
  const Lsn lsn = Record(const_cast<std::byte*>(record)).lsn();
  if ((unsaved_ >> slot & 1) == 0 || !IsOf(slot, lsn)) return;
  if (!Take(record_bytes_ + sizeof(MixedKey))) return;
  kept_.push_back(mixed);
  records_.insert(records_.end(), record, record + record_bytes_);
}

void GroupCut::KeepState(GroupState state) {
  wants_state_ = false;
  if (Take(state.bytes())) state_ = std::move(state);
}

std::vector<GroupCut::Image> GroupCut::Images(uint32_t slot_begin, uint32_t slot_end) const {
  std::vector<Image> images;
  for (size_t i = 0; i < kept_.size(); ++i) {
    const uint32_t slot = SlotOf(kept_[i]);
    if (slot < slot_begin || slot >= slot_end) continue;
    images.push_back({kept_[i], records_.data() + i * record_bytes_});
  }
  std::sort(images.begin(), images.end(),
            [](const Image& a, const Image& b) { return a.mixed.bits < b.mixed.bits; });
  return images;
}

void GroupCut::Saved(uint32_t slot_begin, uint32_t slot_end) {
  unsaved_ &= ~BitsOf(slot_begin, slot_end);
  if (unsaved_ != 0) return;
  if (!memory_.exceeded()) Give(kept_.size() * (record_bytes_ + sizeof(MixedKey)));
  kept_ = {};
  records_ = {};
}

}  // namespace embery
