"""torchvision's VGG-16 as its users run it when they want speed: channels_last, bf16, compiled.

Run as `python3 -m gpu_check.peer DEVICE BATCH STEPS`; prints images/s of training and inference as JSON. Exit code 77
where PyTorch cannot be had here, with the reason on standard error.
"""

import json
import statistics
import sys
import time


def rate(torch, batch, steps, step):
    """Images per second of the median step; the first three compile and warm up."""
    seconds = []
    for number in range(steps + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 3:
            seconds.append(time.perf_counter() - started)
    return batch / statistics.median(seconds)


def main():
    device, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        import torch
        import torchvision
    except ImportError as why:
        print(why, file=sys.stderr)
        return 77
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} finds no CUDA device", file=sys.stderr)
        return 77
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), device=device)
    network = torchvision.models.vgg16().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    compiled = torch.compile(network)

    def train():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(compiled(images), labels)
        loss.backward()
        optimizer.step()

    found = {"how": f"bf16, channels_last, compiled, PyTorch {torch.__version__}", "batch": batch}
    found["train"] = rate(torch, batch, steps, train)
    network.eval()

    def infer():
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            compiled(images)

    found["infer"] = rate(torch, batch, steps, infer)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
