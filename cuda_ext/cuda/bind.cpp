// The CUDA kernels as operators of torch: types, shapes, memory, device and stream; and nothing that computes.
//
// It is written against torch's stable interface, of 2.10, so that one build serves later versions as well. Schemas, gradients and shapes
// without values are in ops.py. What the kernels are not for (float64, mixed types, a GPU or a driver too old) goes to the operator's twin in
// plain torch.
//
// The one symbol that only a torch with CUDA has is weak: any torch can load the library, which is how it is checked where there is no GPU.
// P2PNODE_LIBRARY and P2PNODE_KEY are set by the tests alone, which compile this file and the kernels for the CPU.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

#ifndef P2PNODE_LIBRARY
#define P2PNODE_LIBRARY p2pnode
#define P2PNODE_KEY CUDA
#endif

extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);

namespace p2pnode {
namespace {

using torch::stable::Tensor;

// --- tensors ---------------------------------------------------------------------------------------------------------------------

void require(bool condition, const char* message) {
  if (!condition) throw std::runtime_error(std::string("p2pnode: ") + message);
}

int32_t dtype_of(AtenTensorHandle x) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x, &code));
  return code;
}

std::optional<Type> known(int32_t dtype) {
  if (dtype == aoti_torch_dtype_float32()) return Type::f32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Type::bf16;
  if (dtype == aoti_torch_dtype_float16()) return Type::f16;
  return std::nullopt;
}

Type type_of(const Tensor& x) { return *known(dtype_of(x.get())); }

Tensor dense(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

// Without values, on the device of `like`.
Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(sizes[i], 1);
  int32_t device = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, device, like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor empty_as(const Tensor& like, const std::vector<int64_t>& sizes) { return empty(like, sizes, dtype_of(like.get())); }
Tensor empty_as(const Tensor& like) { return empty_as(like, {like.sizes().begin(), like.sizes().end()}); }
Tensor empty_floats(const Tensor& like, const std::vector<int64_t>& sizes) { return empty(like, sizes, aoti_torch_dtype_float32()); }
Tensor empty_ints(const Tensor& like, const std::vector<int64_t>& sizes) { return empty(like, sizes, aoti_torch_dtype_int32()); }

const float* floats(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }
const int* ints(const Tensor& x) { return static_cast<const int*>(x.const_data_ptr()); }
float* mutable_floats(const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); }
int* mutable_ints(const Tensor& x) { return static_cast<int*>(x.mutable_data_ptr()); }

// As long as it lives, the device of `x` is the current one.
struct Device {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream = nullptr;

  explicit Device(const Tensor& x) : guard(x.get_device_index()) {
    require(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

// --- the gated feed-forward layer --------------------------------------------------------------------------------------------------

Tensor op_swiglu(Tensor gate, Tensor up) {
  require(gate.numel() == up.numel(), "swiglu: gate and up are of one shape");
  const Device device(gate);
  gate = dense(gate), up = dense(up);
  Tensor out = empty_as(gate);
  swiglu(
      type_of(gate), gate.const_data_ptr(), up.const_data_ptr(), out.mutable_data_ptr(), {1, gate.numel(), gate.numel()}, device.stream);
  return out;
}

std::tuple<Tensor, Tensor> op_swiglu_backward(Tensor grad, Tensor gate, Tensor up) {
  require(gate.numel() == up.numel() && grad.numel() == gate.numel(), "swiglu_backward: grad, gate and up are of one shape");
  const Device device(gate);
  grad = dense(grad), gate = dense(gate), up = dense(up);
  Tensor grad_gate = empty_as(gate), grad_up = empty_as(up);
  swiglu_backward(
      type_of(gate), grad.const_data_ptr(), gate.const_data_ptr(), up.const_data_ptr(), grad_gate.mutable_data_ptr(),
      grad_up.mutable_data_ptr(), {1, gate.numel(), gate.numel()}, device.stream);
  return {grad_gate, grad_up};
}

// The halves of the last axis, and where the second begins.
std::pair<Halves, int64_t> halves_of(const Tensor& packed) {
  require(packed.dim() > 0 && packed.size(packed.dim() - 1) % 2 == 0, "swiglu_packed: the last axis has two halves");
  const int64_t stride = packed.size(packed.dim() - 1), columns = stride / 2;
  return {{columns ? packed.numel() / stride : 0, columns, stride}, columns * (type_of(packed) == Type::f32 ? 4 : 2)};
}

Tensor op_swiglu_packed(Tensor packed) {
  const Device device(packed);
  packed = dense(packed);
  const auto [halves, up] = halves_of(packed);
  std::vector<int64_t> sizes(packed.sizes().begin(), packed.sizes().end());
  sizes.back() = halves.columns;
  Tensor out = empty_as(packed, sizes);
  const char* values = static_cast<const char*>(packed.const_data_ptr());
  swiglu(type_of(packed), values, values + up, out.mutable_data_ptr(), halves, device.stream);
  return out;
}

Tensor op_swiglu_packed_backward(Tensor grad, Tensor packed) {
  require(2 * grad.numel() == packed.numel(), "swiglu_packed_backward: grad is half of packed");
  const Device device(packed);
  grad = dense(grad), packed = dense(packed);
  const auto [halves, up] = halves_of(packed);
  Tensor out = empty_as(packed);
  const char* values = static_cast<const char*>(packed.const_data_ptr());
  char* grads = static_cast<char*>(out.mutable_data_ptr());
  swiglu_backward(type_of(packed), grad.const_data_ptr(), values, values + up, grads, grads + up, halves, device.stream);
  return out;
}

// --- mixture of experts: who gets which token --------------------------------------------------------------------------------------

Routing routing_of(const Tensor& logits, int64_t k, bool renorm, const std::string& score) {
  require(logits.dim() == 2 && 1 <= k && k <= logits.size(1), "moe_topk_route: logits are (tokens, experts), and k one to experts");
  require(logits.size(1) <= INT32_MAX, "moe_topk_route: fewer experts than 2^31");
  require(score == "softmax" || score == "sigmoid", "moe_topk_route: score is softmax or sigmoid");
  return {
      logits.size(0), static_cast<int>(logits.size(1)), static_cast<int>(k), renorm,
      score == "softmax" ? Score::softmax : Score::sigmoid};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> op_moe_topk_route(Tensor logits, int64_t k, bool renorm, std::string score) {
  const Routing routing = routing_of(logits, k, renorm, score);
  const Device device(logits);
  logits = dense(logits);
  Tensor weights = empty_floats(logits, {routing.tokens, k}), indices = empty_ints(logits, {routing.tokens, k});
  Tensor counts = empty_ints(logits, {routing.experts}), lse = empty_floats(logits, {routing.tokens});
  route(
      type_of(logits), logits.const_data_ptr(), mutable_floats(weights), mutable_ints(indices), mutable_ints(counts), mutable_floats(lse),
      routing, device.stream);
  return {weights, indices, counts, lse};
}

Tensor op_moe_topk_route_backward(
    Tensor grad_weights, std::optional<Tensor> grad_lse, Tensor logits, Tensor indices, Tensor weights, Tensor lse, bool renorm,
    std::string score) {
  require(weights.dim() == 2, "moe_topk_route_backward: weights are (tokens, k)");
  const Routing routing = routing_of(logits, weights.size(1), renorm, score);
  const int64_t pairs = routing.tokens * routing.k;
  require(
      grad_weights.numel() == pairs && indices.numel() == pairs && weights.numel() == pairs && lse.numel() == routing.tokens &&
          (!grad_lse || (grad_lse->numel() == routing.tokens && dtype_of(grad_lse->get()) == aoti_torch_dtype_float32())),
      "moe_topk_route_backward: shapes and types of one route");
  const Device device(logits);
  grad_weights = dense(grad_weights), logits = dense(logits), indices = dense(indices), weights = dense(weights), lse = dense(lse);
  if (grad_lse) grad_lse = dense(*grad_lse);
  Tensor out = empty_as(logits);
  route_backward(
      type_of(logits), floats(grad_weights), grad_lse ? floats(*grad_lse) : nullptr, logits.const_data_ptr(), ints(indices),
      floats(weights), floats(lse), out.mutable_data_ptr(), routing, device.stream);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> op_moe_plan(Tensor indices, int64_t experts, int64_t align) {
  const int64_t pairs = indices.numel();
  require(experts >= 1 && experts <= INT32_MAX && align >= 1 && align <= INT32_MAX, "moe_plan: experts and align are at least one");
  require(align == 1 || experts <= INT32_MAX / (align - 1), "moe_plan: fewer rows than 2^31");
  const int64_t rows = pairs + experts * (align - 1);
  require(rows <= INT32_MAX, "moe_plan: fewer rows than 2^31");
  const Device device(indices);
  indices = dense(indices);
  Tensor perm = empty_ints(indices, {rows}), inverse = empty_ints(indices, {pairs});
  Tensor ends = empty_ints(indices, {experts});
  Tensor scratch = empty_ints(indices, {plan_scratch(pairs, static_cast<int>(experts))});
  plan(
      ints(indices), pairs, static_cast<int>(experts), static_cast<int>(align), mutable_ints(scratch), mutable_ints(perm),
      mutable_ints(inverse), mutable_ints(ends), device.stream);
  return {perm, inverse, ends};
}

// --- mixture of experts: there and back --------------------------------------------------------------------------------------------

Tensor op_moe_permute(Tensor x, Tensor perm, int64_t k) {
  require(x.dim() == 2 && k >= 1 && k <= INT32_MAX, "moe_permute: x is (tokens, values), and k at least one");
  const Device device(x);
  x = dense(x), perm = dense(perm);
  Tensor out = empty_as(x, {perm.numel(), x.size(1)});
  permute(
      type_of(x), x.const_data_ptr(), ints(perm), out.mutable_data_ptr(), x.size(0), static_cast<int>(k), perm.numel(), x.size(1),
      device.stream);
  return out;
}

Tensor op_moe_permute_backward(Tensor grad, Tensor perm, int64_t tokens, int64_t k) {
  require(
      grad.dim() == 2 && grad.size(0) == perm.numel() && tokens >= 0 && k >= 1 && k <= INT32_MAX && tokens <= INT32_MAX / k,
      "moe_permute_backward: grad has the rows of perm");
  const Device device(grad);
  grad = dense(grad), perm = dense(perm);
  Tensor inverse = empty_ints(perm, {tokens * k}), out = empty_as(grad, {tokens, grad.size(1)});
  invert(ints(perm), perm.numel(), tokens * k, mutable_ints(inverse), device.stream);
  combine(
      type_of(grad), grad.const_data_ptr(), ints(inverse), nullptr, out.mutable_data_ptr(), tokens, static_cast<int>(k), perm.numel(),
      grad.size(1), device.stream);
  return out;
}

Tensor op_moe_combine(Tensor y, Tensor inverse, Tensor weights) {
  require(
      y.dim() == 2 && weights.dim() == 2 && inverse.numel() == weights.numel() && weights.numel() <= INT32_MAX,
      "moe_combine: y is (rows, values), weights (tokens, k), inverse as many");
  const Device device(y);
  y = dense(y), inverse = dense(inverse), weights = dense(weights);
  Tensor out = empty_as(y, {weights.size(0), y.size(1)});
  combine(
      type_of(y), y.const_data_ptr(), ints(inverse), floats(weights), out.mutable_data_ptr(), weights.size(0),
      static_cast<int>(weights.size(1)), y.size(0), y.size(1), device.stream);
  return out;
}

std::tuple<Tensor, Tensor> op_moe_combine_backward(Tensor grad, Tensor y, Tensor inverse, Tensor weights) {
  require(
      y.dim() == 2 && weights.dim() == 2 && inverse.numel() == weights.numel() && weights.numel() <= INT32_MAX && grad.dim() == 2 &&
          grad.size(0) == weights.size(0) && grad.size(1) == y.size(1),
      "moe_combine_backward: shapes of one combination");
  const Device device(y);
  grad = dense(grad), y = dense(y), inverse = dense(inverse), weights = dense(weights);
  Tensor grad_y = empty_as(y), grad_weights = empty_as(weights);
  if (y.size(0) != inverse.numel()) torch::stable::zero_(grad_y);  // some rows are padding, and which is known to the plan alone
  combine_backward(
      type_of(y), grad.const_data_ptr(), y.const_data_ptr(), ints(inverse), floats(weights), grad_y.mutable_data_ptr(),
      mutable_floats(grad_weights), weights.size(0), static_cast<int>(weights.size(1)), y.size(0), y.size(1), device.stream);
  return {grad_y, grad_weights};
}

// --- mixture of experts: balance ---------------------------------------------------------------------------------------------------

void require_balance(const Tensor& logits, const Tensor& lse, const Tensor& counts, int64_t k) {
  require(
      logits.dim() == 2 && lse.numel() == logits.size(0) && counts.numel() == logits.size(1) && counts.numel() <= INT32_MAX &&
          0 <= k && k <= INT32_MAX,
      "moe_aux_loss: logits are (tokens, experts), lse (tokens,), counts (experts,)");
}

Tensor op_moe_aux_loss(Tensor logits, Tensor lse, Tensor counts, int64_t k) {
  require_balance(logits, lse, counts, k);
  const Device device(logits);
  logits = dense(logits), lse = dense(lse), counts = dense(counts);
  Tensor out = empty_floats(lse, {}), scratch = empty_floats(lse, {aux_loss_scratch(logits.size(0))});
  aux_loss(
      type_of(logits), logits.const_data_ptr(), floats(lse), ints(counts), static_cast<int>(k), logits.size(0),
      static_cast<int>(logits.size(1)), mutable_floats(scratch), mutable_floats(out), device.stream);
  return out;
}

Tensor op_moe_aux_loss_backward(Tensor grad, Tensor logits, Tensor lse, Tensor counts, int64_t k) {
  require_balance(logits, lse, counts, k);
  require(grad.numel() == 1, "moe_aux_loss_backward: grad is a scalar");
  const Device device(logits);
  logits = dense(logits), lse = dense(lse), counts = dense(counts);
  Tensor out = empty_as(logits);
  aux_loss_backward(
      type_of(logits), floats(grad), logits.const_data_ptr(), floats(lse), ints(counts), static_cast<int>(k), logits.size(0),
      static_cast<int>(logits.size(1)), out.mutable_data_ptr(), device.stream);
  return out;
}

// --- registration ------------------------------------------------------------------------------------------------------------------

// Whether the device, a GPU of this index, can run the kernels at all; asked once.
bool runs_on(int32_t index) {
  static std::array<std::atomic<char>, 256> answers;
  const size_t place = static_cast<size_t>(index) % answers.size();
  if (!answers[place]) {
    const torch::stable::accelerator::DeviceGuard guard(index);
    answers[place] = *problem_here() == 0 ? 'y' : 'n';
  }
  return answers[place] == 'y';
}

// Whether the kernels are for these arguments. A letter for each of them: a tensor of values (v, all of one type), of float32 (f), of int32
// (i); anything else (-).
bool knows(const char* letters, const StableIValue* stack) {
  std::optional<int32_t> values;
  std::optional<std::pair<int32_t, int32_t>> device;
  for (size_t i = 0; letters[i]; ++i) {
    if (letters[i] == '-') continue;
    const auto tensor = torch::stable::detail::to<AtenTensorHandle>(stack[i]);  // lent: the stack keeps it
    std::pair<int32_t, int32_t> here;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor, &here.first));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor, &here.second));
    require(!device || *device == here, "all tensors of a call are on one device");
    device = here;
    const int32_t dtype = dtype_of(tensor);
    if (letters[i] == 'f' && dtype != aoti_torch_dtype_float32()) return false;
    if (letters[i] == 'i' && dtype != aoti_torch_dtype_int32()) return false;
    if (letters[i] != 'v') continue;
    if (!known(dtype) || (values && *values != dtype)) return false;
    values = dtype;
  }
  return runs_on(device->second);
}

// The twin takes the arguments from the stack, and leaves its results there.
void pass_on(const char* twin, StableIValue* stack) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(twin, "", stack, TORCH_ABI_VERSION));
}

#define P2PNODE_OPERATOR(name, letters)                                                  \
  library.impl(#name, [](StableIValue* stack, uint64_t arguments, uint64_t results) {    \
    if (!knows(letters, stack)) return pass_on("p2pnode::" #name "_reference", stack);   \
    TORCH_BOX(&op_##name)(stack, arguments, results);                                    \
  })

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(P2PNODE_LIBRARY, P2PNODE_KEY, library) {
  P2PNODE_OPERATOR(swiglu, "vv");
  P2PNODE_OPERATOR(swiglu_backward, "vvv");
  P2PNODE_OPERATOR(swiglu_packed, "v");
  P2PNODE_OPERATOR(swiglu_packed_backward, "vv");
  P2PNODE_OPERATOR(moe_topk_route, "v---");
  P2PNODE_OPERATOR(moe_topk_route_backward, "f-viff--");
  P2PNODE_OPERATOR(moe_plan, "i--");
  P2PNODE_OPERATOR(moe_permute, "vi-");
  P2PNODE_OPERATOR(moe_permute_backward, "vi--");
  P2PNODE_OPERATOR(moe_combine, "vif");
  P2PNODE_OPERATOR(moe_combine_backward, "vvif");
  P2PNODE_OPERATOR(moe_aux_loss, "vfi-");
  P2PNODE_OPERATOR(moe_aux_loss_backward, "fvfi-");
}

}  // namespace p2pnode

// For load.py: why the GPU of this index runs plain torch, or "".
extern "C" __attribute__((visibility("default"))) const char* p2pnode_cuda_problem(int32_t index) {
  try {
    const torch::stable::accelerator::DeviceGuard guard(index);
    return p2pnode::problem_here();
  } catch (const std::exception&) {
    return "torch cannot make it the current device";
  }
}
