# maury on the CPU, without the network at run time:
#   docker build --tag maury .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" maury infer star.fits --output results
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE CITATION.cff constraints.txt sbom.cdx.json ./
COPY src src
# The wheels of torch for the CPU are a tenth of those for CUDA; "+cpu" sorts above the same version without it.
RUN python -m venv /opt/maury \
    && /opt/maury/bin/pip install --no-cache-dir --constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu ".[survey,serve]"

FROM python:3.12-slim
COPY --from=build /opt/maury /opt/maury
RUN useradd --create-home --uid 1000 maury \
    && mkdir /data \
    && chown maury:maury /data
# Caches of matplotlib and astropy, whoever runs it.
ENV PATH=/opt/maury/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    XDG_CACHE_HOME=/tmp/cache
USER maury
WORKDIR /data
ENTRYPOINT ["maury"]
CMD ["--help"]
