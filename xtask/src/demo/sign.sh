#!/bin/sh
# A board of departures with a clock, and a line of text that walks. 80 columns, 30 rows.
draw() {
    words="One GPU, many virtual machines   ***   this sign is a guest of 256 MiB   ***   $1   ***   "
    words="$words$words" length=${#words} at=0
    printf '\033[?25l\033[40m\033[2J\033[2;1H\033[43;97m%80s\033[3;1H%-80s\033[4;1H%80s\033[40m' '' '    DEPARTURES' ''
    row=7
    while read -r time platform colour place; do
        printf "\033[$row;5H\033[93m%s\033[97m   %-44s\033[9${colour}m%12s" "$time" "$place" "$platform"
        row=$((row + 3))
    done <<END
09:12 track-1 2 Virtio, by the vhost-user line
09:17 track-4 6 Framebuffer North
09:26 track-2 5 Scanout, stops at every damage
09:31 track-7 4 Fence and Timeline Street
09:40 delayed 1 Passthrough
END
    while :; do
        printf '\033[3;65H\033[43;97m%s' "$(date +%H:%M:%S)"
        printf "\033[24;1H\033[4$((at / 4 % 6 + 1));97m%80s\033[25;1H%s\033[26;1H%80s\033[40m" '' "$(echo "$words" | cut -c $((at + 1))-$((at + 80)))" ''
        at=$(((at + 2) % (length / 2)))
        sleep 0.3
    done
}

draw "$1" &
read -r line
kill $!
printf '\033[0m\033[?25h'
