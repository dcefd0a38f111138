// Package transcript reads the terminal sessions of a document, and says
// whether a command did what they show.
package transcript

import (
	"fmt"
	"regexp"
	"strings"
)

// Step is a command of a session and what it shows.
type Step struct {
	Line    int    // of the document, from 1
	Command string // after "$ "
	Output  []string
}

const (
	prompt   = "> " // before what a person types
	anything = "…"  // within a line: any text; alone on a line: any lines
)

var console = regexp.MustCompile("(?ms)^```console\n(.*?)^```$")

// Parse returns the steps of all blocks ```console of a document, in their
// order. Lines before the first command of a block are an error, as nothing
// can have shown them.
func Parse(document string) (steps []Step, err error) {
	for _, block := range console.FindAllStringSubmatchIndex(document, -1) {
		line := 1 + strings.Count(document[:block[2]], "\n")
		first := len(steps)
		for text := range strings.SplitSeq(strings.TrimSuffix(document[block[2]:block[3]], "\n"), "\n") {
			if command, found := strings.CutPrefix(text, "$ "); found {
				steps = append(steps, Step{Line: line, Command: command})
			} else if len(steps) == first {
				return nil, fmt.Errorf("line %d shows %q before any command", line, text)
			} else {
				last := &steps[len(steps)-1]
				last.Output = append(last.Output, text)
			}
			line++
		}
	}
	for i := range steps { // a blank line parts commands
		for n := len(steps[i].Output); n > 0 && steps[i].Output[n-1] == ""; n-- {
			steps[i].Output = steps[i].Output[:n-1]
		}
	}
	return steps, nil
}

// Typed says whether a person types something into the command.
func (s Step) Typed() bool {
	for _, line := range s.Output {
		if typed, found := strings.CutPrefix(line, prompt); found && strings.TrimSpace(typed) != "" {
			return true
		}
	}
	return false
}

// Compare returns how what a command has shown differs from the document, line
// by line, or "". What a person types may be anything.
func (s Step) Compare(screen string) (difference string) {
	got := strings.Split(strings.TrimRight(screen, "\n"), "\n")
	if screen == "" {
		got = nil
	}
	c := comparison{want: s.Output, got: got}
	if c.matches(0, 0) {
		return ""
	}
	shown := func(lines []string, at int) string {
		if at < len(lines) {
			return fmt.Sprintf("%q", lines[at])
		}
		return "nothing more"
	}
	return fmt.Sprintf("line %d: the document shows %s, and the command %s", s.Line+1+c.wantAt, shown(c.want, c.wantAt), shown(c.got, c.gotAt))
}

// comparison compares lines with those of a document, and knows how far they
// are alike.
type comparison struct {
	want, got     []string
	wantAt, gotAt int // where they differ
}

// matches says whether all lines from these on are alike.
func (c *comparison) matches(want, got int) bool {
	if want > c.wantAt {
		c.wantAt, c.gotAt = want, got
	}
	if want == len(c.want) {
		return got == len(c.got)
	}
	if strings.TrimSpace(c.want[want]) == anything {
		for skipped := got; skipped <= len(c.got); skipped++ {
			if c.matches(want+1, skipped) {
				return true
			}
		}
		return false
	}
	return got < len(c.got) && same(c.want[want], c.got[got]) && c.matches(want+1, got+1)
}

// same says whether a line is that of the document. Blanks at its end cannot be
// seen.
func same(want, got string) bool {
	want, got = strings.TrimRight(want, " "), strings.TrimRight(got, " ")
	if strings.HasPrefix(want, prompt) {
		return strings.HasPrefix(got, strings.TrimSpace(prompt))
	}
	parts := strings.Split(want, anything)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(got)
}
