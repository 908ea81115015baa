// Puts the client and its types, which the Python package serves, beside the other modules.

import { copyFileSync } from "node:fs";

const HERE = new URL("./", import.meta.url);
const SOURCE = new URL("../stores/streamstores/http/chat/", HERE);

for (const name of ["stream.js", "stream.d.ts"]) {
  copyFileSync(new URL(name, SOURCE), new URL(name, HERE));
}
copyFileSync(new URL("../LICENSE", HERE), new URL("LICENSE", HERE));
