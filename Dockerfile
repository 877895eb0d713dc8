# syntax=docker/dockerfile:1

# CPU by default. For NVIDIA GPUs: docker build --build-arg DEVICE=gpu -t blip2tools:gpu .
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/blip2tools
WORKDIR /src
COPY constraints.txt ./
# The ordinary wheel brings gigabytes of CUDA libraries, which a machine without a GPU never uses.
RUN case "$DEVICE" in \
      cpu) /opt/blip2tools/bin/pip install --no-deps --index-url https://download.pytorch.org/whl/cpu \
             "$(grep '^torch==' constraints.txt)" ;; \
      gpu) ;; \
      *) echo "DEVICE must be cpu or gpu" >&2; exit 2 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY packaging/readme.py ./packaging/
COPY blip2tools ./blip2tools
RUN /opt/blip2tools/bin/pip install -c constraints.txt '.[mcp]'

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="blip2tools" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.description="Local eyes for text-only agents: BLIP-2 captions, answers and image-text match." \
      org.opencontainers.image.licenses="Apache-2.0" \
      io.modelcontextprotocol.server.name="io.github.blip2tools/blip2tools"
COPY --from=build /opt/blip2tools /opt/blip2tools
# Numbers, not names, so that an orchestrator can see that the user is not root.
RUN install -d -o 10001 -g 10001 /models && install -d -m 0755 /pictures
ENV PATH=/opt/blip2tools/bin:$PATH \
    HF_HOME=/models \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /pictures
VOLUME /models
EXPOSE 8765
ENTRYPOINT ["blip2tools"]
CMD ["serve", "--allow-dir", "/pictures"]
