mkdir -m 755 models
setpriv --reuid=65534 --regid=65534 --clear-groups python -c '
import os
os.makedirs("/root/models/output")'
