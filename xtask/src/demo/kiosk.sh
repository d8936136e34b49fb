#!/bin/sh
# Whose turn it is: a number that counts, in large digits, and a bar for how far each desk is. 80 columns, 30 rows.
digits='
7777 0111 7777 7777 7007 7777 7777 7777 7777 7777
7007 0001 0007 0007 7007 7000 7000 0007 7007 7007
7007 0001 7777 7777 7777 7777 7777 0070 7777 7777
7007 0001 7000 0007 0007 0007 7007 0070 7007 0007
7777 0001 7777 7777 0007 7777 7777 0070 7777 7777'

# number COLOUR: its digits, each pixel four spaces wide and two rows high.
number() {
    row=7
    echo "$digits" | while read -r line; do
        [ -n "$line" ] || continue
        text=
        for digit in $(echo "$2" | sed 's/./& /g'); do
            cells=$(echo "$line" | cut -d ' ' -f $((digit + 1)) | sed "s/0/~/g;s/[17]/#/g;s/#/\\\\033[4$1m    /g;s/~/\\\\033[40m    /g")
            text="$text$cells\\033[40m    "
        done
        printf "\033[$row;11H$text\033[$((row + 1));11H$text"
        row=$((row + 2))
    done
}

draw() {
    turn=104 step=0
    printf '\033[?25l\033[40m\033[2J\033[2;1H\033[44;97m%80s\033[3;1H%-80s\033[4;1H%80s' '' '          NOW SERVING' ''
    printf '\033[40;37m\033[28;11H%s' "$1"
    while :; do
        if [ $((step % 24)) = 0 ]; then
            turn=$((turn + 1))
            number $((turn % 6 + 1)) $turn
        fi
        for desk in 1 2 3; do
            part=$(((step * (desk + 1) + desk * 17) % 48))
            printf "\033[$((18 + desk * 2));11H\033[40;97mdesk $desk  \033[4$((desk + 1))m%${part}s\033[100m%$((48 - part))s\033[40m" '' ''
        done
        step=$((step + 1))
        sleep 0.3
    done
}

draw "$1" &
read -r line
kill $!
printf '\033[0m\033[?25h'
