# `liminal serve` in an image: docker build -t liminal . && docker run -p 8000:8000 liminal
#
# Elsewhere than behind a proxy that knows its users, publish the port to this machine alone: -p 127.0.0.1:8000:8000.
# PyPI's torch for Linux brings CUDA, which this image does not use; --build-arg PIP_EXTRA_INDEX_URL=... takes another.
FROM python:3.12-slim AS build
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

FROM python:3.12-slim
ARG PIP_EXTRA_INDEX_URL
COPY --from=build /wheels /wheels
COPY scripts/constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/liminal_hf-*.whl)[serve,offline]" \
    && useradd --create-home liminal
USER liminal
ENV LIMINAL_CACHE_DIR=/home/liminal/cache HF_HUB_OFFLINE=1
# The model in 8 bits is made once, here.
RUN python -c "import liminal_hf; from liminal_hf.scoring import Scorer; Scorer(liminal_hf.DEFAULT_CHECKPOINT, 'int8')"
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=5)"]
CMD ["liminal", "serve", "--host", "0.0.0.0"]
