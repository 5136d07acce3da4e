# The function of the runtimes' contract, a process a request: Http_Query says what to do, as `word=value`.
value=$(echo "${Http_Query#*=}" | sed 's,%2F,/,g')
case $Http_Query in
    env=*) env ;;
    secret=*) cat "${secret_mount_path:-/var/openfaas/secrets}/$value" ;;
    secrets=*) ls -l "${secret_mount_path:-/var/openfaas/secrets}" ;;
    print=*) echo "$value" >&2 ;;
    flood=*) head -c "$value" /dev/zero | tr '\0' x | fold -w 1000 >&2 ;;
    sleep=*) sleep "$value" ;;
    ignore=*) trap '' TERM; sleep "$value" ;;
    hungry=*) head -c "$value" /dev/zero | tail -c "$value" >/dev/null ;;
    write=*) echo written >"$value" && cat "$value" ;;
    fork=*) while [ "$((value -= 1))" -ge 0 ]; do sleep 600 >/dev/null 2>&1 & done; echo forked ;;
    fill=*) cat /dev/zero 2>&1 >"$value" ;;
    size=*) stat -c %s "$value" ;;
    id=*) id ;;
    limits=*) cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null ||
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max ;;
    reach=*) nc -w 2 "$value" 8080 </dev/null && echo reached || echo not reached ;;
    fetch=*) wget -q -O - "$(cat)" ;;
    fail=*) echo "failed as asked"; exit 3 ;;
    *) env | grep '^Http_'; echo "body=$(cat)" ;;
esac
