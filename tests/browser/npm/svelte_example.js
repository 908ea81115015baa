import { mount } from "svelte";

import Chat from "./examples/Chat.svelte";

mount(Chat, { target: document.getElementById("app") });
