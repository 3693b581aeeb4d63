#!/bin/sh
# A trial federation in containers on this machine: a coordinator and three hospitals of made-up patients, from nothing to a report.
#   deploy/trial.sh         builds the images, makes deploy/trial, starts compose.yaml, runs a study
#   deploy/trial.sh down    stops it; then delete deploy/trial to begin again (its files belong to user 10001)
set -eu
cd "$(dirname "$0")"

compose() {
    if docker compose version > /dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

if [ "${1:-}" = down ]; then
    compose down
    exit
fi
if [ -e trial ]; then
    echo "deploy/trial is there already. To begin again: deploy/trial.sh down, and delete it." >&2
    exit 2
fi
compose build
mkdir trial

# What the people of the four places do by hand, and by telephone: docs/coordinator.md and docs/hospital.md. As root, for a folder
# that Docker mounts belongs to whoever made it; everything is handed to user 10001 at the end.
docker run --rm --user 0 --network none -v "$PWD/trial:/trial" -w /trial --entrypoint sh pmfed-site:0.1.0 -euc '
pmfed data hospitals --sites 3 --out data
pmfed coordinator init hub --host hub
for site in hospital-1 hospital-2 hospital-3; do
    pmfed site init $site --name $site
    cp -r data/$site/. hub/ca.crt $site
    printf "\n[coordinator]\naddress = \"hub:9092\"\n" >> $site/site.toml
    pmfed site card $site > $site.json
    pmfed coordinator add $site.json --coordinator hub
done
sed "s/^rounds = .*/rounds = 30/" data/study.toml > hub/study.toml
for site in hospital-1 hospital-2 hospital-3; do
    echo y | pmfed site trust hub/roster.json $site
    sed -n "s/^epsilon = \([0-9.]*\).*/\1/p" hub/study.toml | pmfed site approve hub/study.toml $site
done
chown -R 10001:10001 .
'
compose up -d
looks=60
until compose exec -T hub python -m pmfed.processes check /hub; do
    looks=$((looks - 1))
    if [ $looks -eq 0 ]; then
        compose logs hub
        echo "the coordinator does not come up; its programs' logs are in deploy/trial/hub/logs." >&2
        exit 1
    fi
    sleep 2
done
compose exec -T hub pmfed coordinator run study.toml --sites 3 --out runs/trial
echo "hospital-1's ledger:"
compose exec -T hospital-1 pmfed site ledger show
echo "next: docker compose -f deploy/compose.yaml exec hospital-1 pmfed site log; or deploy/trial.sh down"
