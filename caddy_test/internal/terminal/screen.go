package terminal

import (
	"regexp"
	"strings"
)

// escape is a control sequence of a terminal, such as a colour.
var escape = regexp.MustCompile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\^_])")

// Shown returns what a person sees of what a command writes to a terminal: no
// control sequences, and of a line that was written over its last state.
func Shown(output string) string {
	lines := strings.Split(strings.ReplaceAll(escape.ReplaceAllString(output, ""), "\r\n", "\n"), "\n")
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		lines[i] = line[strings.LastIndexByte(line, '\r')+1:]
	}
	return strings.Join(lines, "\n")
}
