// The order in which emulated threads run, and the few functions of torch's CUDA that bind.cpp calls.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

extern char __start_emulated_shared[], __stop_emulated_shared[];  // the linker's, around the kernels' variables

namespace emulator {
namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr unsigned WARP = 32;

enum class State { ready, warp, block, done };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
  dim3 index;
  State state = State::done;
  const char* operation = nullptr;
  uint64_t value = 0;
};

unsigned seed = 0;
std::vector<Thread> threads;
std::vector<std::vector<uint64_t>> given;  // by the lanes of each warp, in the last operation
ucontext_t scheduler;
Thread* current = nullptr;
const std::function<void()>* body = nullptr;

void wait(State state) {
  current->state = state;
  swapcontext(&current->context, &scheduler);
}

void enter() {
  (*body)();
  current->state = State::done;
}

// 0 is ascending, 1 descending, anything else a shuffle.
void arrange(std::vector<unsigned>& order, std::mt19937& random) {
  std::iota(order.begin(), order.end(), 0u);
  if (seed == 1) std::reverse(order.begin(), order.end());
  if (seed > 1) std::shuffle(order.begin(), order.end(), random);
}

// Runs the threads of a warp, in that order, to their next meeting, and on if that is one of their own. False: none could run.
bool run_warp(Thread* warp, const std::vector<unsigned>& order) {
  bool is_any = false;
  for (unsigned i : order) {
    if (warp[i].state != State::ready) continue;
    current = &warp[i];
    threadIdx = current->index;
    swapcontext(&scheduler, &current->context);
    is_any = true;
  }
  for (unsigned i = 0; i < WARP; ++i)
    if (warp[i].state != State::warp) return is_any;
  for (unsigned i = 0; i < WARP; ++i) {
    if (std::strcmp(warp[i].operation, warp[0].operation) != 0) fail("the lanes of a warp do different things");
    given[(warp - threads.data()) / WARP][i] = warp[i].value;
    warp[i].state = State::ready;
  }
  return true;
}

bool release_block(unsigned count) {
  for (unsigned i = 0; i < count; ++i)
    if (threads[i].state != State::block) return false;
  for (unsigned i = 0; i < count; ++i) threads[i].state = State::ready;
  return true;
}

// Byte by byte, for a sanitizer's sake: it has red zones between the variables.
__attribute__((no_sanitize("address"))) void spoil_shared_memory() {
  for (volatile char* at = __start_emulated_shared; at != __stop_emulated_shared; ++at) *at = static_cast<char>(0xa5);
}

void run_block(unsigned count, std::mt19937& random) {
  spoil_shared_memory();
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = threads[i];
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK_BYTES;
    thread.context.uc_link = &scheduler;
    makecontext(&thread.context, enter, 0);
    thread.index = dim3(i % blockDim.x, i / blockDim.x);
    thread.state = State::ready;
  }
  std::vector<unsigned> warps(count / WARP), lanes(WARP);
  do {
    arrange(warps, random);
    arrange(lanes, random);
    // Each as far as it comes: a warp that nothing holds back is far ahead of the others.
    for (unsigned warp : warps)
      while (run_warp(&threads[warp * WARP], lanes)) {
      }
  } while (release_block(count));
  for (unsigned i = 0; i < count; ++i)
    if (threads[i].state != State::done) fail("threads wait for one another");
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.y * blockDim.x + threadIdx.x);
  std::abort();
}

const uint64_t* exchange(unsigned mask, const char* operation, uint64_t value) {
  if (mask != ~0u) fail("an operation of a part of a warp");
  current->operation = operation;
  current->value = value;
  Thread* const self = current;
  wait(State::warp);
  return given[(self - threads.data()) / WARP].data();
}

void barrier() { wait(State::block); }

void run(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  const unsigned count = block.x * block.y;
  if (grid.x == 0 || grid.y * grid.z * block.z != 1 || count % WARP || count > 1024) fail("a grid that is none of ours");
  if (threads.size() < count) threads.resize(count);
  given.assign(count / WARP, std::vector<uint64_t>(WARP));
  gridDim = grid, blockDim = block, body = &kernel;
  std::mt19937 random(seed);
  std::vector<unsigned> order(grid.x);
  arrange(order, random);
  for (unsigned index : order) {
    blockIdx = dim3(index, 0, 0);
    run_block(count, random);
  }
}

}  // namespace emulator

extern "C" {

__attribute__((visibility("default"))) void emulator_order(unsigned seed) { emulator::seed = seed; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = nullptr;
  return 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return 0; }
}
