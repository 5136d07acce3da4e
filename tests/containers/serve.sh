# One HTTP connection of a function's container, on stdin and stdout: busybox nc starts this for each. It does as a
# classic watchdog does: $fprocess is a process a request, with the body on stdin and the rest in Http_* variables.
cr=$(printf '\r')
read -r Http_Method target _ || exit 0
length=0
while IFS= read -r line; do
    line=${line%"$cr"}
    [ -n "$line" ] || break
    name=$(printf %s "${line%%:*}" | tr A-Z- a-z_)
    export "Http_$name=${line#*: }"
    [ "$name" != content_length ] || length=${line#*: }
done
Http_Path=${target%%\?*}
Http_Query=
[ "$Http_Path" = "$target" ] || Http_Query=${target#*\?}
export Http_Method Http_Path Http_Query

reply() {
    printf 'HTTP/1.1 %b\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %s\r\n\r\n' \
        "$1" "$(printf %s "$2" | wc -c)"
    [ "$Http_Method" = HEAD ] || printf %s "$2"
}

case $Http_Path in
    /_/health) reply "200 OK" OK ;;
    /redirect) reply "302 Found\r\nLocation: $destination" "" ;;
    /_/*) reply "404 Not Found" "" ;;
    *)
        output=$(head -c "$length" | $fprocess; code=$?; printf x; exit "$code")
        if code=$?; [ "$code" = 0 ]; then
            reply "200 OK" "${output%x}"
        else
            reply "500 Internal Server Error" "${output%x}exit status $code"
        fi
        ;;
esac
