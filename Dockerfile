# LoRA Smith for a rented GPU; docs/install.md has the commands.
#
# The base image is the smallest of NVIDIA's that passes the driver on: PyTorch's wheels bring CUDA's libraries.
ARG CUDA=13.0.1-base-ubuntu24.04

FROM nvidia/cuda:${CUDA} AS build
ARG TORCH=https://download.pytorch.org/whl/cu130
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/lorasmith
COPY constraints.txt /source/
# On its own, so that a change of the program does not download it again.
RUN /opt/lorasmith/bin/pip install --no-cache-dir -c /source/constraints.txt --extra-index-url "${TORCH}" torch
COPY . /source/
RUN /opt/lorasmith/bin/pip install --no-cache-dir -c /source/constraints.txt --extra-index-url "${TORCH}" \
    "/source[cuda,images,optimizers,tagger,tensorboard]"

FROM nvidia/cuda:${CUDA}
# The compiler is for memory.torch_compile, which builds kernels at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1001 --create-home --shell /bin/bash smith \
    && mkdir /workspace \
    && chown smith:smith /workspace
COPY --from=build /opt/lorasmith /opt/lorasmith
ENV PATH=/opt/lorasmith/bin:$PATH \
    HF_HOME=/workspace/models/huggingface \
    XDG_CACHE_HOME=/workspace/.cache \
    XDG_CONFIG_HOME=/workspace/.config \
    XDG_STATE_HOME=/workspace/.state \
    LANG=C.UTF-8 \
    COLORTERM=truecolor \
    LOGNAME=smith
USER smith
WORKDIR /workspace
VOLUME ["/workspace"]
# It waits, so that a training outlives the screen that started it: docker exec -it NAME lorasmith
CMD ["sleep", "infinity"]
