// Speaks with an exported language model from C++: two successive chunks, the second looking back on the first.
// Usage: forward_chunk MODEL.zip WIDTH. Prints what both chunks return, one number a line.
#include <torch/script.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

torch::Tensor piece(int64_t start, int64_t length, int64_t width) {
  auto numbers = torch::arange(start * width, (start + length) * width, torch::kFloat32);
  return torch::sin(numbers).view({1, length, width});
}

void print_values(const torch::Tensor& tensor) {
  auto flat = tensor.contiguous().view({-1});
  for (int64_t i = 0; i < flat.numel(); ++i) std::printf("%.9g\n", flat[i].item<float>());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  torch::InferenceMode guard;
  auto model = torch::jit::load(argv[1]);
  auto forward_chunk = model.get_method("forward_chunk");
  const int64_t width = std::stol(argv[2]);

  auto att_cache = torch::zeros({0, 0, 0, 0}), cnn_cache = torch::zeros({0, 0, 0, 0});
  int64_t offset = 0;
  for (const int64_t length : {5, 1}) {
    const std::unordered_map<std::string, c10::IValue> arguments{
        {"xs", piece(offset, length, width)},
        {"offset", offset},
        {"required_cache_size", static_cast<int64_t>(-1)},
        {"att_cache", att_cache},
        {"cnn_cache", cnn_cache},
        {"att_mask", torch::ones({1, length, length}, torch::kBool).tril()},
    };
    auto outputs = forward_chunk({}, arguments).toTuple()->elements();
    print_values(outputs[0].toTensor());
    att_cache = outputs[1].toTensor();
    cnn_cache = outputs[2].toTensor();
    offset += length;
  }
  print_values(att_cache);
}
