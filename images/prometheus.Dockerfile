# Prometheus as Debian packages it, for the chart's optional dashboard and the tests' cluster.
#   docker build -f images/prometheus.Dockerfile .      (podman and buildah: the same)
ARG BASE=debian:trixie-slim

FROM ${BASE}
# debconf would ask on the terminal of who builds; this is in no environment of the image.
ARG DEBIAN_FRONTEND=noninteractive
RUN touch /began \
 && apt-get update \
 && apt-get install -y --no-install-recommends prometheus \
 && apt-get clean && rm -rf /var/cache/ldconfig/* \
 && find /var/lib/apt/lists -type f ! -name lock -delete \
 && find /var/log /var/cache/debconf -type f ! -name '*.dat' -exec truncate --size 0 {} + \
 && echo 'lockstep:x:65532:65532:lockstep:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'lockstep:x:65532:' >> /etc/group \
 && install -d -o 65532 -g 65532 /prometheus \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
 && find / -xdev -newer /began ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' -exec touch -h -d @0 {} + \
 && rm /began && touch -d @0 /
ENV HOME=/tmp
LABEL org.opencontainers.image.title="lockstep-prometheus" \
      org.opencontainers.image.description="Debian's Prometheus for Lockstep's tests and demo" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
USER 65532:65532
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
