// The CPU kernels as torch's operators: checks, memory, threads, and which instruction set runs. Kernels know nothing of it.
//
// Written on torch's stable interface, so that one library serves every torch from the floor that build.py names. Schemas, shapes and
// gradients are in ops.py. What no kernel here takes (float64, float16, an empty tensor's oddities) goes to the operator's twin in plain
// torch, `p2pnode::<name>_reference`. Nothing that Python hands over can make a kernel read or write outside of a tensor: sizes and every
// index are checked here.
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "kernels.h"

namespace {

using p2pnode::Kernels;
using p2pnode::Routing;
using p2pnode::Typed;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// --- instruction sets ------------------------------------------------------------------------------------------------------------------

// The widest that this processor has, or the one of that name; none if it cannot run here.
const Kernels* find_kernels(const char* name) {
  const bool is_any = *name == 0;
  const auto is_meant = [&](const Kernels& kernels) { return is_any || strcmp(name, kernels.name) == 0; };
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (is_meant(p2pnode::avx512bf16) && has_avx512 && __builtin_cpu_supports("avx512bf16")) return &p2pnode::avx512bf16;
  if (is_meant(p2pnode::avx512) && has_avx512) return &p2pnode::avx512;
  if (is_meant(p2pnode::avx2) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &p2pnode::avx2;
#endif
  return is_meant(p2pnode::scalar) ? &p2pnode::scalar : nullptr;
}

std::atomic<const Kernels*> chosen{find_kernels("")};

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

// --- tensors ---------------------------------------------------------------------------------------------------------------------------

// Elementwise work is cut into pieces of so many values, whatever the threads: large enough to be worth one, small enough to share.
constexpr int64_t PIECE_VALUES = 1 << 15;
// Results of so many bytes push one another out of the caches; past them they are written faster, and push nothing else out.
constexpr int64_t STREAM_BYTES = 16 << 20;
// A token's probabilities are added in float within so many tokens, and in double from one piece to the next.
constexpr int64_t PIECE_TOKENS = 64;

Tensor make(std::initializer_list<int64_t> sizes, ScalarType type) {
  int64_t strides[8], stride = 1;
  const int64_t* const size = sizes.begin();
  for (int64_t i = static_cast<int64_t>(sizes.size()) - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= size[i];
  }
  const int32_t dtype = type == ScalarType::Float      ? aoti_torch_dtype_float32()
                        : type == ScalarType::BFloat16 ? aoti_torch_dtype_bfloat16()
                                                       : aoti_torch_dtype_int32();
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), size, strides, dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

Tensor make_like(const Tensor& x) {
  const auto sizes = x.sizes();
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (int64_t i = static_cast<int64_t>(sizes.size()) - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= sizes[i];
  }
  int32_t dtype;
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

Tensor dense(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

bool is_known(const Tensor& x) { return x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::BFloat16; }

const Typed& typed(const Tensor& x) { return x.scalar_type() == ScalarType::Float ? kernels().f32 : kernels().bf16; }

int64_t value_bytes(const Tensor& x) { return x.scalar_type() == ScalarType::Float ? 4 : 2; }

void check(const Tensor& x, ScalarType type, std::initializer_list<int64_t> sizes, const char* what) {
  bool is_right = x.is_cpu() && x.scalar_type() == type && x.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; is_right && i < sizes.size(); i++) is_right = x.size(static_cast<int64_t>(i)) == sizes.begin()[i];
  STD_TORCH_CHECK(is_right, what, ": a tensor of another shape, type or device than this operator takes");
}

void check_same(const Tensor& x, const Tensor& other, const char* what) {
  bool is_same = x.is_cpu() && x.scalar_type() == other.scalar_type() && x.dim() == other.dim();
  for (int64_t i = 0; is_same && i < x.dim(); i++) is_same = x.size(i) == other.size(i);
  STD_TORCH_CHECK(is_same, what, ": tensors of different shapes, types or devices");
}

// All of them in [low, high): the sign of neither difference is set.
void check_indices(const int32_t* indices, int64_t count, int64_t low, int64_t high, const char* what) {
  const uint32_t first = static_cast<uint32_t>(low), last = static_cast<uint32_t>(high - 1);
  uint32_t seen = 0;
  for (int64_t i = 0; i < count; i++) seen |= (static_cast<uint32_t>(indices[i]) - first) | (last - static_cast<uint32_t>(indices[i]));
  STD_TORCH_CHECK((seen >> 31) == 0, what, ": an index is out of range");
}

template <class... Results, size_t... I>
std::tuple<Results...> results(StableIValue* stack, std::index_sequence<I...>) {
  return {torch::stable::detail::to<Results>(stack[I])...};
}

// The operator's twin in plain torch.
template <class... Results, class... Arguments>
std::tuple<Results...> pass_on(const char* twin, const Arguments&... arguments) {
  StableIValue stack[std::max(sizeof...(Results), sizeof...(Arguments))] = {torch::stable::detail::from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(twin, "", stack, TORCH_ABI_VERSION));
  return results<Results...>(stack, std::make_index_sequence<sizeof...(Results)>());
}

// `work(begin, end)` for pieces of [0, count), each of about PIECE_VALUES values where one of the count has so many.
template <class Work>
void in_pieces(int64_t count, int64_t values_each, const Work& work) {
  if (count == 0) return;
  // Pieces begin at whole cache lines of whatever type.
  const int64_t grain = values_each == 1 ? PIECE_VALUES : std::max<int64_t>(1, PIECE_VALUES / std::max<int64_t>(values_each, 1));
  const int64_t pieces = (count + grain - 1) / grain;
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    work(first * grain, std::min(last * grain, count));
  });
}

char* bytes_of(const Tensor& x) { return static_cast<char*>(x.mutable_data_ptr()); }
const char* read_bytes_of(const Tensor& x) { return static_cast<const char*>(x.const_data_ptr()); }
float* floats_of(const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); }
const float* read_floats_of(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }
int32_t* ints_of(const Tensor& x) { return static_cast<int32_t*>(x.mutable_data_ptr()); }
const int32_t* read_ints_of(const Tensor& x) { return static_cast<const int32_t*>(x.const_data_ptr()); }

// --- the gated feed-forward layer --------------------------------------------------------------------------------------------------------

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  if (!is_known(gate)) return std::get<0>(pass_on<Tensor>("p2pnode::swiglu_reference", gate, up));
  check_same(up, gate, "swiglu");
  const Tensor g = dense(gate), u = dense(up), out = make_like(gate);
  const int64_t values = g.numel(), size = value_bytes(g);
  const auto run = typed(g).swiglu;
  const char *const from = read_bytes_of(g), *const by = read_bytes_of(u);
  char* const to = bytes_of(out);
  in_pieces(values, 1, [&](int64_t begin, int64_t end) {
    run(from + begin * size, by + begin * size, to + begin * size, end - begin, values * size >= STREAM_BYTES);
  });
  return out;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& grad, const Tensor& gate, const Tensor& up) {
  if (!is_known(gate)) return pass_on<Tensor, Tensor>("p2pnode::swiglu_backward_reference", grad, gate, up);
  check_same(up, gate, "swiglu_backward");
  check_same(grad, gate, "swiglu_backward");
  const Tensor d = dense(grad), g = dense(gate), u = dense(up), of_gate = make_like(gate), of_up = make_like(gate);
  const int64_t values = g.numel(), size = value_bytes(g);
  const auto run = typed(g).swiglu_backward;
  const char *const out = read_bytes_of(d), *const from = read_bytes_of(g), *const by = read_bytes_of(u);
  char *const to_gate = bytes_of(of_gate), *const to_up = bytes_of(of_up);
  in_pieces(values, 1, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * size;
    run(out + at, from + at, by + at, to_gate + at, to_up + at, end - begin, 2 * values * size >= STREAM_BYTES);
  });
  return {of_gate, of_up};
}

Tensor make_half(const Tensor& packed) {
  Tensor half = make({packed.numel() / 2}, packed.scalar_type());
  std::vector<int64_t> sizes(packed.sizes().begin(), packed.sizes().end());
  sizes.back() /= 2;
  return torch::stable::view(half, {sizes.data(), sizes.size()});
}

Tensor swiglu_packed(const Tensor& packed) {
  if (!is_known(packed)) return std::get<0>(pass_on<Tensor>("p2pnode::swiglu_packed_reference", packed));
  STD_TORCH_CHECK(packed.is_cpu() && packed.dim() > 0 && packed.size(-1) % 2 == 0, "swiglu_packed: no two halves");
  const Tensor both = dense(packed), out = make_half(packed);
  const int64_t size = value_bytes(both), half = both.size(-1) / 2 * size, rows = half ? both.numel() * size / (2 * half) : 0;
  const auto run = typed(both).swiglu;
  const char* const from = read_bytes_of(both);
  char* const to = bytes_of(out);
  in_pieces(rows, 2 * half / size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const char* const gate = from + 2 * row * half;
      run(gate, gate + half, to + row * half, half / size, rows * half >= STREAM_BYTES);
    }
  });
  return out;
}

Tensor swiglu_packed_backward(const Tensor& grad, const Tensor& packed) {
  if (!is_known(packed)) return std::get<0>(pass_on<Tensor>("p2pnode::swiglu_packed_backward_reference", grad, packed));
  const bool is_right = packed.dim() > 0 && packed.size(-1) % 2 == 0 && grad.scalar_type() == packed.scalar_type() && grad.is_cpu();
  STD_TORCH_CHECK(is_right && 2 * grad.numel() == packed.numel(), "swiglu_packed_backward: shapes or types differ");
  const Tensor d = dense(grad), both = dense(packed), result = make_like(packed);
  const int64_t size = value_bytes(both), half = both.size(-1) / 2 * size, rows = half ? both.numel() * size / (2 * half) : 0;
  const auto run = typed(both).swiglu_backward;
  const char *const out = read_bytes_of(d), *const from = read_bytes_of(both);
  char* const to = bytes_of(result);
  in_pieces(rows, 2 * half / size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const char* const gate = from + 2 * row * half;
      char* const of_gate = to + 2 * row * half;
      run(out + row * half, gate, gate + half, of_gate, of_gate + half, half / size, 2 * rows * half >= STREAM_BYTES);
    }
  });
  return result;
}

// --- mixture of experts: who gets which token --------------------------------------------------------------------------------------------

Routing routing(int64_t experts, int64_t k, bool renorm, const std::string& score) {
  STD_TORCH_CHECK(1 <= k && k <= experts && experts <= INT32_MAX, "moe_topk_route: k experts of none or fewer");
  STD_TORCH_CHECK(score == "softmax" || score == "sigmoid", "moe_topk_route: no such score");
  return {experts, k, renorm, score == "sigmoid"};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> moe_topk_route(const Tensor& logits, int64_t k, bool renorm, std::string score) {
  if (!is_known(logits)) {
    return pass_on<Tensor, Tensor, Tensor, Tensor>("p2pnode::moe_topk_route_reference", logits, k, renorm, score);
  }
  STD_TORCH_CHECK(logits.is_cpu() && logits.dim() == 2, "moe_topk_route: logits are tokens by experts");
  const Tensor rows = dense(logits);
  const int64_t tokens = rows.size(0), experts = rows.size(1), row_bytes = experts * value_bytes(rows);
  const Routing how = routing(experts, k, renorm, score);
  const Tensor weights = make({tokens, k}, ScalarType::Float), indices = make({tokens, k}, ScalarType::Int);
  const Tensor counts = make({experts}, ScalarType::Int), lse = make({tokens}, ScalarType::Float);
  memset(ints_of(counts), 0, static_cast<size_t>(experts) * sizeof(int32_t));
  const auto run = typed(rows).route;
  const char* const from = read_bytes_of(rows);
  in_pieces(tokens, experts, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(p2pnode::scratch_floats(experts, k)));
    std::vector<int32_t> mine(static_cast<size_t>(experts));
    run(from + begin * row_bytes, end - begin, how, floats_of(weights) + begin * k, ints_of(indices) + begin * k, mine.data(),
        floats_of(lse) + begin, scratch.data());
    for (int64_t e = 0; e < experts; e++) __atomic_fetch_add(ints_of(counts) + e, mine[static_cast<size_t>(e)], __ATOMIC_RELAXED);
  });
  return {weights, indices, counts, lse};
}

Tensor moe_topk_route_backward(
    const Tensor& grad_weights, const std::optional<Tensor>& grad_lse, const Tensor& logits, const Tensor& indices,
    const Tensor& weights, const Tensor& lse, bool renorm, std::string score) {
  if (!is_known(logits)) {
    return std::get<0>(pass_on<Tensor>(
        "p2pnode::moe_topk_route_backward_reference", grad_weights, grad_lse, logits, indices, weights, lse, renorm, score));
  }
  STD_TORCH_CHECK(logits.is_cpu() && logits.dim() == 2 && weights.dim() == 2, "moe_topk_route_backward: tokens by experts");
  const int64_t tokens = logits.size(0), experts = logits.size(1), k = weights.size(1);
  const Routing how = routing(experts, k, renorm, score);
  check(grad_weights, ScalarType::Float, {tokens, k}, "moe_topk_route_backward");
  check(weights, ScalarType::Float, {tokens, k}, "moe_topk_route_backward");
  check(indices, ScalarType::Int, {tokens, k}, "moe_topk_route_backward");
  check(lse, ScalarType::Float, {tokens}, "moe_topk_route_backward");
  if (grad_lse.has_value()) check(*grad_lse, ScalarType::Float, {tokens}, "moe_topk_route_backward");
  const Tensor rows = dense(logits), of_weights = dense(grad_weights), w = dense(weights), at = dense(indices), l = dense(lse);
  const std::optional<Tensor> of_lse = grad_lse.has_value() ? std::optional<Tensor>(dense(*grad_lse)) : std::nullopt;
  const Tensor grad = make({tokens, experts}, rows.scalar_type());
  check_indices(read_ints_of(at), tokens * k, 0, experts, "moe_topk_route_backward");
  const int64_t row_bytes = experts * value_bytes(rows);
  const auto run = typed(rows).route_backward;
  in_pieces(tokens, experts, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(p2pnode::scratch_floats(experts, k)));
    run(read_floats_of(of_weights) + begin * k, of_lse ? read_floats_of(*of_lse) + begin : nullptr,
        read_bytes_of(rows) + begin * row_bytes, read_ints_of(at) + begin * k, read_floats_of(w) + begin * k, read_floats_of(l) + begin,
        end - begin, how, bytes_of(grad) + begin * row_bytes, scratch.data());
  });
  return grad;
}

// A counting sort, in one thread: it takes a thousandth of the layer that follows.
std::tuple<Tensor, Tensor, Tensor> moe_plan(const Tensor& indices, int64_t experts, int64_t align) {
  STD_TORCH_CHECK(indices.is_cpu() && indices.scalar_type() == ScalarType::Int, "moe_plan: indices are int32 on the CPU");
  STD_TORCH_CHECK(1 <= experts && experts <= INT32_MAX && 1 <= align && align <= INT32_MAX, "moe_plan: no experts");
  const Tensor dense_indices = dense(indices);
  const int64_t pairs = dense_indices.numel(), rows = pairs + experts * (align - 1);
  STD_TORCH_CHECK(rows <= INT32_MAX, "moe_plan: too many rows");
  const int32_t* const expert = read_ints_of(dense_indices);
  check_indices(expert, pairs, 0, experts, "moe_plan");
  const Tensor perm = make({rows}, ScalarType::Int), inverse = make({pairs}, ScalarType::Int), ends = make({experts}, ScalarType::Int);
  std::vector<int32_t> next(static_cast<size_t>(experts));
  for (int64_t pair = 0; pair < pairs; pair++) next[static_cast<size_t>(expert[pair])]++;
  int64_t end = 0;
  for (int64_t e = 0; e < experts; e++) {
    const int64_t begin = end;
    end += (next[static_cast<size_t>(e)] + align - 1) / align * align;
    next[static_cast<size_t>(e)] = static_cast<int32_t>(begin);
    ints_of(ends)[e] = static_cast<int32_t>(end);
  }
  int32_t *const to = ints_of(perm), *const back = ints_of(inverse);
  if (rows != pairs) memset(to, 0xff, static_cast<size_t>(rows) * sizeof(int32_t));  // -1
  for (int64_t pair = 0; pair < pairs; pair++) {
    const int32_t row = next[static_cast<size_t>(expert[pair])]++;
    to[row] = static_cast<int32_t>(pair);
    back[pair] = row;
  }
  return {perm, inverse, ends};
}

// --- mixture of experts: there and back --------------------------------------------------------------------------------------------------

// Pair -> row, of a plan's row -> pair; every pair has exactly one.
std::vector<int32_t> inverted(const Tensor& perm, int64_t pairs, const char* what) {
  const int64_t rows = perm.numel();
  const int32_t* const pair = read_ints_of(perm);
  check_indices(pair, rows, -1, pairs, what);
  std::vector<int32_t> inverse(static_cast<size_t>(pairs), -1);
  int64_t found = 0;
  for (int64_t row = 0; row < rows; row++) {
    if (pair[row] < 0) continue;
    found += inverse[static_cast<size_t>(pair[row])] < 0;
    inverse[static_cast<size_t>(pair[row])] = static_cast<int32_t>(row);
  }
  STD_TORCH_CHECK(found == pairs, what, ": not every pair has a row");
  return inverse;
}

// Rows that are nobody's become zero.
void clear_padding(const Tensor& perm, char* out, int64_t row_bytes) {
  const int32_t* const pair = read_ints_of(perm);
  for (int64_t row = 0; row < perm.numel(); row++) {
    if (pair[row] < 0) memset(out + row * row_bytes, 0, static_cast<size_t>(row_bytes));
  }
}

Tensor moe_permute(const Tensor& x, const Tensor& perm, int64_t k) {
  if (!is_known(x)) return std::get<0>(pass_on<Tensor>("p2pnode::moe_permute_reference", x, perm, k));
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 2 && perm.dim() == 1 && k >= 1, "moe_permute: x is tokens by values");
  check(perm, ScalarType::Int, {perm.size(0)}, "moe_permute");
  const Tensor from = dense(x), p = dense(perm);
  const int64_t tokens = from.size(0), width = from.size(1), rows = p.size(0), row_bytes = width * value_bytes(from);
  const Tensor out = make({rows, width}, from.scalar_type());
  const std::vector<int32_t> inverse = inverted(p, tokens * k, "moe_permute");
  if (rows != tokens * k) clear_padding(p, bytes_of(out), row_bytes);
  const auto run = kernels().permute;
  in_pieces(tokens, k * width, [&](int64_t begin, int64_t end) {
    run(read_bytes_of(from) + begin * row_bytes, inverse.data() + begin * k, bytes_of(out), end - begin, k, row_bytes,
        rows * row_bytes >= STREAM_BYTES);
  });
  return out;
}

Tensor combined(const Tensor& y, const int32_t* inverse, const float* weights, int64_t tokens, int64_t k) {
  const int64_t width = y.size(1), row_bytes = width * value_bytes(y);
  const Tensor out = make({tokens, width}, y.scalar_type());
  const auto run = typed(y).combine;
  in_pieces(tokens, k * width, [&](int64_t begin, int64_t end) {
    run(read_bytes_of(y), inverse + begin * k, weights != nullptr ? weights + begin * k : nullptr, bytes_of(out) + begin * row_bytes,
        end - begin, k, width, tokens * row_bytes >= STREAM_BYTES);
  });
  return out;
}

Tensor moe_permute_backward(const Tensor& grad, const Tensor& perm, int64_t tokens, int64_t k) {
  if (!is_known(grad)) return std::get<0>(pass_on<Tensor>("p2pnode::moe_permute_backward_reference", grad, perm, tokens, k));
  STD_TORCH_CHECK(grad.is_cpu() && grad.dim() == 2 && tokens >= 0 && k >= 1, "moe_permute_backward: rows by values");
  check(perm, ScalarType::Int, {grad.size(0)}, "moe_permute_backward");
  const Tensor p = dense(perm);
  const std::vector<int32_t> inverse = inverted(p, tokens * k, "moe_permute_backward");
  return combined(dense(grad), inverse.data(), nullptr, tokens, k);
}

Tensor moe_combine(const Tensor& y, const Tensor& inverse, const Tensor& weights) {
  if (!is_known(y) || weights.scalar_type() != ScalarType::Float) {
    return std::get<0>(pass_on<Tensor>("p2pnode::moe_combine_reference", y, inverse, weights));
  }
  STD_TORCH_CHECK(y.is_cpu() && weights.is_cpu() && y.dim() == 2 && weights.dim() == 2, "moe_combine: y is rows by values");
  const int64_t tokens = weights.size(0), k = weights.size(1);
  check(inverse, ScalarType::Int, {tokens * k}, "moe_combine");
  const Tensor rows = dense(y), at = dense(inverse), w = dense(weights);
  check_indices(read_ints_of(at), tokens * k, 0, rows.size(0), "moe_combine");
  return combined(rows, read_ints_of(at), read_floats_of(w), tokens, k);
}

std::tuple<Tensor, Tensor> moe_combine_backward(const Tensor& grad, const Tensor& y, const Tensor& inverse, const Tensor& weights) {
  if (!is_known(y) || weights.scalar_type() != ScalarType::Float) {
    return pass_on<Tensor, Tensor>("p2pnode::moe_combine_backward_reference", grad, y, inverse, weights);
  }
  STD_TORCH_CHECK(y.is_cpu() && weights.is_cpu() && y.dim() == 2 && weights.dim() == 2, "moe_combine_backward: rows by values");
  const int64_t tokens = weights.size(0), k = weights.size(1), width = y.size(1);
  check(inverse, ScalarType::Int, {tokens * k}, "moe_combine_backward");
  check(grad, y.scalar_type(), {tokens, width}, "moe_combine_backward");
  const Tensor d = dense(grad), rows = dense(y), at = dense(inverse), w = dense(weights);
  check_indices(read_ints_of(at), tokens * k, 0, rows.size(0), "moe_combine_backward");
  const Tensor grad_y = make({rows.size(0), width}, rows.scalar_type()), grad_weights = make({tokens, k}, ScalarType::Float);
  const int64_t row_bytes = width * value_bytes(rows), all_bytes = rows.size(0) * row_bytes;
  if (rows.size(0) != tokens * k) memset(bytes_of(grad_y), 0, static_cast<size_t>(all_bytes));
  const auto run = typed(rows).combine_backward;
  in_pieces(tokens, k * width, [&](int64_t begin, int64_t end) {
    run(read_bytes_of(d) + begin * row_bytes, read_bytes_of(rows), read_ints_of(at) + begin * k, read_floats_of(w) + begin * k,
        bytes_of(grad_y), floats_of(grad_weights) + begin * k, end - begin, k, width, all_bytes >= STREAM_BYTES);
  });
  return {grad_y, grad_weights};
}

// --- mixture of experts: products --------------------------------------------------------------------------------------------------------

// Where the rows of each group begin, and the end of the last one's.
std::vector<int64_t> bounds(const Tensor& ends, int64_t rows, const char* what) {
  check(ends, ScalarType::Int, {ends.size(0)}, what);
  const Tensor e = dense(ends);
  std::vector<int64_t> begins{0};
  bool is_right = true;
  for (int64_t group = 0; group < e.numel(); group++) {
    begins.push_back(read_ints_of(e)[group]);
    is_right = is_right && begins[static_cast<size_t>(group)] <= begins.back();
  }
  STD_TORCH_CHECK(is_right && begins.back() == rows, what, ": groups do not end one after the other, the last with the last row");
  return begins;
}

// `run(group, scratch)` for each of them.
template <class Run>
void by_group(int64_t groups, const Run& run) {
  in_pieces(groups, PIECE_VALUES, [&](int64_t first, int64_t last) {
    std::vector<char> memory(p2pnode::PRODUCT_FLOATS * sizeof(float) + 64);
    char* const line = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    for (int64_t group = first; group < last; group++) run(group, reinterpret_cast<float*>(line));
  });
}

bool has_product(const Tensor& x, const Tensor& weights) {
  return kernels().product != nullptr && x.scalar_type() == ScalarType::Float && weights.scalar_type() == ScalarType::Float;
}

Tensor grouped_linear(const Tensor& x, const Tensor& weights, const Tensor& ends) {
  if (!has_product(x, weights)) return std::get<0>(pass_on<Tensor>("p2pnode::grouped_linear_reference", x, weights, ends));
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 2 && weights.dim() == 3 && ends.dim() == 1, "grouped_linear: x is rows by values");
  const int64_t rows = x.size(0), inner = x.size(1), groups = ends.size(0), columns = weights.size(1);
  check(weights, ScalarType::Float, {groups, columns, inner}, "grouped_linear");
  const std::vector<int64_t> begins = bounds(ends, rows, "grouped_linear");
  const Tensor a = dense(x), w = dense(weights), out = make({rows, columns}, ScalarType::Float);
  by_group(groups, [&](int64_t group, float* scratch) {
    const int64_t begin = begins[static_cast<size_t>(group)], count = begins[static_cast<size_t>(group) + 1] - begin;
    kernels().product({read_floats_of(a) + begin * inner, inner, 1}, {read_floats_of(w) + group * columns * inner, 1, inner},
                      floats_of(out) + begin * columns, count, inner, columns, scratch);
  });
  return out;
}

std::tuple<Tensor, Tensor> grouped_linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weights, const Tensor& ends) {
  if (!has_product(x, weights)) return pass_on<Tensor, Tensor>("p2pnode::grouped_linear_backward_reference", grad, x, weights, ends);
  STD_TORCH_CHECK(x.is_cpu() && x.dim() == 2 && weights.dim() == 3 && ends.dim() == 1, "grouped_linear_backward: x is rows by values");
  const int64_t rows = x.size(0), inner = x.size(1), groups = ends.size(0), columns = weights.size(1);
  check(weights, ScalarType::Float, {groups, columns, inner}, "grouped_linear_backward");
  check(grad, ScalarType::Float, {rows, columns}, "grouped_linear_backward");
  const std::vector<int64_t> begins = bounds(ends, rows, "grouped_linear_backward");
  const Tensor d = dense(grad), a = dense(x), w = dense(weights), of_x = make_like(x), of_weights = make_like(weights);
  by_group(groups, [&](int64_t group, float* scratch) {
    const int64_t begin = begins[static_cast<size_t>(group)], count = begins[static_cast<size_t>(group) + 1] - begin;
    const int64_t at = group * columns * inner;
    const float *const slope = read_floats_of(d) + begin * columns, *const from = read_floats_of(a) + begin * inner;
    kernels().product({slope, columns, 1}, {read_floats_of(w) + at, inner, 1}, floats_of(of_x) + begin * inner, count, columns, inner,
                      scratch);
    kernels().product({slope, 1, columns}, {from, inner, 1}, floats_of(of_weights) + at, columns, count, inner, scratch);
  });
  return {of_x, of_weights};
}

// --- mixture of experts: balance ---------------------------------------------------------------------------------------------------------

void check_balance(const Tensor& logits, const Tensor& lse, const Tensor& counts) {
  STD_TORCH_CHECK(logits.is_cpu() && logits.dim() == 2, "moe_aux_loss: logits are tokens by experts");
  check(lse, ScalarType::Float, {logits.size(0)}, "moe_aux_loss");
  check(counts, ScalarType::Int, {logits.size(1)}, "moe_aux_loss");
}

// Of all tokens the part that each expert got, padded.
std::vector<float> fractions(const Tensor& counts, int64_t k) {
  const Tensor c = dense(counts);
  const int64_t experts = c.numel();
  int64_t all = 0;
  for (int64_t e = 0; e < experts; e++) all += read_ints_of(c)[e];
  std::vector<float> parts(static_cast<size_t>(p2pnode::padded(experts)));
  for (int64_t e = 0; e < experts; e++) {
    parts[static_cast<size_t>(e)] = static_cast<float>(static_cast<double>(read_ints_of(c)[e]) * k / std::max<int64_t>(all, 1));
  }
  return parts;
}

Tensor moe_aux_loss(const Tensor& logits, const Tensor& lse, const Tensor& counts, int64_t k) {
  if (!is_known(logits)) return std::get<0>(pass_on<Tensor>("p2pnode::moe_aux_loss_reference", logits, lse, counts, k));
  check_balance(logits, lse, counts);
  const Tensor rows = dense(logits), l = dense(lse);
  const int64_t tokens = rows.size(0), experts = rows.size(1), padded = p2pnode::padded(experts);
  const int64_t row_bytes = experts * value_bytes(rows), pieces = (tokens + PIECE_TOKENS - 1) / PIECE_TOKENS;
  std::vector<float> sums(static_cast<size_t>(pieces * padded));
  const auto run = typed(rows).probabilities;
  in_pieces(pieces, PIECE_TOKENS * experts, [&](int64_t first, int64_t last) {
    std::vector<float> scratch(static_cast<size_t>(p2pnode::scratch_floats(experts, 1)));
    for (int64_t piece = first; piece < last; piece++) {
      const int64_t begin = piece * PIECE_TOKENS, end = std::min(begin + PIECE_TOKENS, tokens);
      run(read_bytes_of(rows) + begin * row_bytes, read_floats_of(l) + begin, end - begin, experts, sums.data() + piece * padded,
          scratch.data());
    }
  });
  const std::vector<float> parts = fractions(counts, k);
  double loss = 0;
  for (int64_t piece = 0; piece < pieces; piece++) {
    for (int64_t e = 0; e < experts; e++) {
      loss += static_cast<double>(sums[static_cast<size_t>(piece * padded + e)]) * parts[static_cast<size_t>(e)];
    }
  }
  const Tensor result = make({}, ScalarType::Float);
  *floats_of(result) = static_cast<float>(loss * static_cast<double>(experts) / static_cast<double>(std::max<int64_t>(tokens, 1)));
  return result;
}

Tensor moe_aux_loss_backward(const Tensor& grad, const Tensor& logits, const Tensor& lse, const Tensor& counts, int64_t k) {
  if (!is_known(logits)) {
    return std::get<0>(pass_on<Tensor>("p2pnode::moe_aux_loss_backward_reference", grad, logits, lse, counts, k));
  }
  check_balance(logits, lse, counts);
  check(grad, ScalarType::Float, {}, "moe_aux_loss_backward");
  const Tensor rows = dense(logits), l = dense(lse), result = make({rows.size(0), rows.size(1)}, rows.scalar_type());
  const int64_t tokens = rows.size(0), experts = rows.size(1), row_bytes = experts * value_bytes(rows);
  const float scale = *read_floats_of(grad) * static_cast<float>(experts) / static_cast<float>(std::max<int64_t>(tokens, 1));
  const std::vector<float> parts = fractions(counts, k);
  const auto run = typed(rows).aux_loss_backward;
  in_pieces(tokens, experts, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(p2pnode::scratch_floats(experts, 1)));
    run(read_bytes_of(rows) + begin * row_bytes, read_floats_of(l) + begin, parts.data(), scale, end - begin, experts,
        bytes_of(result) + begin * row_bytes, scratch.data());
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(p2pnode, CPU, m) {
  m.impl("swiglu", TORCH_BOX(&swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&swiglu_backward));
  m.impl("swiglu_packed", TORCH_BOX(&swiglu_packed));
  m.impl("swiglu_packed_backward", TORCH_BOX(&swiglu_packed_backward));
  m.impl("moe_topk_route", TORCH_BOX(&moe_topk_route));
  m.impl("moe_topk_route_backward", TORCH_BOX(&moe_topk_route_backward));
  m.impl("moe_plan", TORCH_BOX(&moe_plan));
  m.impl("moe_permute", TORCH_BOX(&moe_permute));
  m.impl("moe_permute_backward", TORCH_BOX(&moe_permute_backward));
  m.impl("moe_combine", TORCH_BOX(&moe_combine));
  m.impl("moe_combine_backward", TORCH_BOX(&moe_combine_backward));
  m.impl("grouped_linear", TORCH_BOX(&grouped_linear));
  m.impl("grouped_linear_backward", TORCH_BOX(&grouped_linear_backward));
  m.impl("moe_aux_loss", TORCH_BOX(&moe_aux_loss));
  m.impl("moe_aux_loss_backward", TORCH_BOX(&moe_aux_loss_backward));
}

// For load.py. The name of a set of kernels, or "" for the widest; 0 if this processor cannot run it.
extern "C" __attribute__((visibility("default"))) int p2pnode_choose_isa(const char* name) {
  const Kernels* const found = find_kernels(name);
  if (found != nullptr) chosen.store(found, std::memory_order_relaxed);
  return found != nullptr;
}

extern "C" __attribute__((visibility("default"))) const char* p2pnode_isa() { return kernels().name; }
