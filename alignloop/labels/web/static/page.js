// Pages without a script of their own: draw the formulas.

import { typeset } from "./math.js";

typeset(document);
