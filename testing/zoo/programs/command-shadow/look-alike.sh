#!/bin/sh
mkdir -p ~/.local/bin
printf '#!/bin/sh\n' > ~/.local/bin/my-tool
chmod +x ~/.local/bin/my-tool
