// What real hardware does not say: bounds, uninitialised reads and races, per instruction.
#include <sstream>

#include "../include/machine.h"

namespace omfuse_emu {

namespace {

std::string Bytes(const Range& range) {
  std::ostringstream out;
  out << range.storage->name << " bytes " << range.begin << ".." << range.end;
  return out.str();
}

bool Before(const Epoch& earlier, uint32_t own_slot, const Pipe& pipe, bool needs_barrier) {
  if (!earlier.sequence) return true;
  if (earlier.slot == own_slot) return !needs_barrier || earlier.sequence <= pipe.barrier;
  return pipe.clock[earlier.slot] >= earlier.sequence;
}

std::string Other(const Machine& machine, const Epoch& epoch) {
  auto& cores = const_cast<Machine&>(machine).cores();
  return std::string("pipe ") + kPipeNames[epoch.slot % kPipes] + " of " +
         cores[epoch.slot / kPipes]->Where();
}

}  // namespace

void Core::CheckAccess(int id, const Instruction& instruction) {
  Pipe& pipe = pipes_[id];
  const uint32_t slot = Slot(id);
  const std::string what = std::string(instruction.name) + " on pipe " + kPipeNames[id];
  const bool vector = id == kV;
  auto too_early = [&](const Epoch& write) {
    return write.slot == slot && pipe.hasty.count(write.sequence) != 0;
  };
  for (const Range& range : instruction.reads) {
    Storage& storage = *range.storage;
    if (range.begin >= range.end || range.end > storage.size + storage.spare) {
      Fail(what + " reads " + Bytes(range) + ", beyond its " + std::to_string(storage.size));
    }
    if (!instruction.copies && !storage.AllWritten(range.begin, range.end - range.begin)) {
      Fail(what + " reads " + Bytes(range) + ", which nothing has written");
    }
    if (!storage.races) continue;
    for (uint64_t i = range.begin / storage.granule; i * storage.granule < range.end; ++i) {
      Cell& cell = storage.cells[i];
      if (too_early(cell.write)) {
        Fail(what + " adds to " + Bytes(range) +
             ", a product of fewer than 10 fractals, without a PipeBarrier after it");
      }
      if (!Before(cell.write, slot, pipe, vector)) {
        Fail(what + " reads " + Bytes(range) + " without waiting for the write by " +
             Other(*machine_, cell.write));
      }
      Epoch* place = &cell.reads[0];
      for (Epoch& read : cell.reads) {
        if (read.slot == slot || Before(read, slot, pipe, false)) {
          place = &read;
          if (read.slot == slot) break;
        }
      }
      *place = {slot, pipe.done};
    }
  }
  for (const Range& range : instruction.writes) {
    Storage& storage = *range.storage;
    if (range.begin >= range.end || range.end > storage.size) {
      Fail(what + " writes " + Bytes(range) + ", beyond its " + std::to_string(storage.size));
    }
    if (!storage.writable) Fail(what + " writes " + Bytes(range) + ", an input of the kernel");
    if (instruction.adds && !storage.AllWritten(range.begin, range.end - range.begin)) {
      Fail(what + " adds to " + Bytes(range) + ", which nothing has written");
    }
    if (!instruction.copies) storage.MarkWritten(range.begin, range.end - range.begin);
    if (!storage.races) continue;
    for (uint64_t i = range.begin / storage.granule; i * storage.granule < range.end; ++i) {
      Cell& cell = storage.cells[i];
      // An addition is a read, too, so even its own pipe has to have finished what came before.
      const bool strict = vector || instruction.adds || cell.write.adds;
      const bool commutes = instruction.adds && cell.write.adds;
      if (!commutes && !Before(cell.write, slot, pipe, strict)) {
        Fail(what + " writes " + Bytes(range) + " without waiting for the write by " +
             Other(*machine_, cell.write));
      }
      for (Epoch& read : cell.reads) {
        if (!Before(read, slot, pipe, false)) {
          Fail(what + " writes " + Bytes(range) + " without waiting for the read by " +
               Other(*machine_, read));
        }
        read = Epoch();
      }
      cell.write = {slot, pipe.done, instruction.adds};
    }
  }
}

}  // namespace omfuse_emu
