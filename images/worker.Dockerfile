# The worker: CPU torch and Fashion-MNIST from Debian, the rest from the lock, our code last.
#   docker build -f images/worker.Dockerfile .      (podman and buildah: the same)
# Behind a TLS-inspecting proxy: --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
ARG BASE=debian:trixie-slim

FROM ${BASE} AS pip
# debconf would ask on the terminal of who builds; this is in no environment of the image.
ARG DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-pip \
 && rm -rf /var/lib/apt/lists/*

FROM pip AS dependencies
ARG PIP_INDEX_URL
COPY requirements/worker.lock /requirements.lock
# The root file system is read-only at run time: what is not compiled here is compiled at every start.
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
 && PYTHONDONTWRITEBYTECODE=1 python3 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes \
    --only-binary=:all: --root-user-action=ignore --target /out/usr/local/lib/python3.13/dist-packages -r /requirements.lock \
 && rm -rf /out/usr/local/lib/python3.13/dist-packages/bin \
 && find /out -name tests -type d -prune -exec rm -r {} + \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /out -p / /out \
 && find /out -exec touch -h -d @0 {} +

FROM pip AS code
COPY operator/lockstep_api /out/opt/lockstep/lib/lockstep_api
COPY operator/lockstep_allocator /out/opt/lockstep/lib/lockstep_allocator
COPY operator/lockstep_serving /out/opt/lockstep/lib/lockstep_serving
COPY workers/lockstep_workers /out/opt/lockstep/lib/lockstep_workers
RUN find /out -name __pycache__ -prune -exec rm -r {} + \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -s /out -p / /out \
 && chmod -R u=rwX,go=rX /out \
 && find /out -exec touch -h -d @0 {} +

FROM ${BASE}
ARG DEBIAN_FRONTEND=noninteractive
# libopenblas0-pthread: without it torch runs on the reference BLAS, 7 to 19 times slower.
# Left out: the test suites of torch, sympy and numpy, a tenth of the image.
# Nor is there what torch's package asks for and nothing here imports: HTTP clients, test frameworks,
# parts of torch.compile, which needs a compiler. An empty package stands in for them, so that apt
# installs the real ones in an image built on this one that wants them.
RUN touch /began \
 && mkdir -p /stand-in/DEBIAN \
 && printf '%s\n' 'Package: lockstep-without' 'Version: 1' 'Architecture: all' \
    'Maintainer: Lockstep' 'Description: stands in for what Lockstep leaves out' \
    'Provides: python3-expecttest, python3-filelock, python3-fsspec, python3-hypothesis, python3-jinja2, python3-networkx, python3-pkg-resources, python3-psutil, python3-requests, python3-yaml' \
    > /stand-in/DEBIAN/control \
 && dpkg-deb --root-owner-group --build /stand-in /stand-in.deb \
 && apt-get update \
 && apt-get install -y --no-install-recommends \
    -o Dpkg::Options::='--path-exclude=/usr/lib/libtorch-test/*' \
    /stand-in.deb python3 python3-torch python3-numpy libopenblas0-pthread dataset-fashion-mnist \
 && rm -r /stand-in /stand-in.deb \
 && find /usr/lib/python3/dist-packages -name tests -type d -prune -exec rm -r {} + \
 && apt-get clean && rm -rf /var/cache/ldconfig/* \
 && find /var/lib/apt/lists -type f ! -name lock -delete \
 && find /var/log /var/cache/debconf -type f ! -name '*.dat' -exec truncate --size 0 {} + \
 && echo 'lockstep:x:65532:65532:lockstep:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'lockstep:x:65532:' >> /etc/group \
 && mkdir -p /opt/lockstep/lib \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && find / -xdev -newer /began ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' -exec touch -h -d @0 {} + \
 && rm /began && touch -d @0 /
# Debian's place for local packages: what a derived image installs with pip joins them.
COPY --from=dependencies /out /
ENV PYTHONPATH=/opt/lockstep/lib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
LABEL org.opencontainers.image.title="lockstep-worker" \
      org.opencontainers.image.description="Lockstep's data plane: cloud and device roles, and the trainer of policies" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["python3", "-m", "lockstep_workers"]
COPY --from=code /out /
