#!/usr/bin/env bash
# Makes the certificates with which the nodes of a Ray cluster know each other:
#   infra/tls/certificates.sh FOLDER NODE=ADDRESS[,ADDRESS]...
# such as `certificates.sh certificates head=10.0.0.5 worker-1=10.0.0.6`. FOLDER/ca.key signs and stays here; each node gets
# FOLDER/NODE with ca.crt, tls.crt and tls.key. Run again for more nodes; what is there stays as it is, so remove a node's
# folder to renew its certificate. DAYS tells how long nodes' certificates hold, AUTHORITY_DAYS how long the authority's.
set -euo pipefail
umask 077

days=${DAYS:-365} authority_days=${AUTHORITY_DAYS:-3650}
if [ $# -lt 2 ]; then
  echo "usage: $0 FOLDER NODE=ADDRESS[,ADDRESS]..." >&2
  exit 2
fi
folder=$1
shift

# An address is an IP address or a host name; gRPC compares it with the one that it calls.
alternatives() {
  local address names=DNS:localhost,IP:127.0.0.1
  for address in ${1//,/ }; do
    case $address in
      *[!0-9a-zA-Z.:-]*)
        echo "$0: an address must be an IP address or a host name, got $address" >&2
        return 2
        ;;
      *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names+=,IP:$address ;;
      *) names+=,DNS:$address ;;
    esac
  done
  printf '%s' "$names"
}

new_key() {
  openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"
}

for node in "$@"; do
  case $node in
    *[!0-9a-zA-Z.,:=-]* | =* | *= | [!0-9a-zA-Z]* | *=*=*)
      echo "$0: a node must be NAME=ADDRESS[,ADDRESS], got $node" >&2
      exit 2
      ;;
    *=*) ;;
    *)
      echo "$0: a node must be NAME=ADDRESS[,ADDRESS], got $node" >&2
      exit 2
      ;;
  esac
done

mkdir -p "$folder"
if [ ! -e "$folder/ca.crt" ]; then
  new_key "$folder/ca.key"
  openssl req -x509 -new -key "$folder/ca.key" -out "$folder/ca.crt" -days "$authority_days" -subj "/CN=dvt-ray-ca" \
    -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
if ! openssl x509 -in "$folder/ca.crt" -noout -checkend $((days * 86400)) > /dev/null; then
  echo "$0: the authority of $folder must hold longer than $days days; set DAYS, or make a new one in another folder" >&2
  exit 1
fi

for node in "$@"; do
  place=$folder/${node%%=*}
  if [ -e "$place/tls.crt" ]; then
    echo "$place is there already"
    continue
  fi
  names=$(alternatives "${node#*=}")
  mkdir -p "$place"
  new_key "$place/tls.key"
  openssl req -new -key "$place/tls.key" -subj "/CN=${node%%=*}" -out "$place/request.pem"
  printf 'subjectAltName=%s\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n' \
    "$names" > "$place/extensions"
  openssl x509 -req -in "$place/request.pem" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days "$days" -extfile "$place/extensions" -out "$place/new.crt" 2> "$place/openssl.log" || { cat "$place/openssl.log" >&2; exit 1; }
  cp "$folder/ca.crt" "$place/ca.crt"
  rm "$place/request.pem" "$place/extensions" "$place/openssl.log"
  mv "$place/new.crt" "$place/tls.crt"  # the last step: a folder with it is whole
  echo "$place is for $names"
done
