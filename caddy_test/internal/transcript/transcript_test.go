package transcript

import (
	"strings"
	"testing"
)

const document = "# A\n\n```console\n$ first --flag\na … c\n\n  two blanks\n> typed\n$ second\n```\n\ntext\n\n```sh\n$ no session\n```\n\n```console\n$ third\n…\nend\n\n```\n"

func TestTheSessionsOfADocumentAreRead(t *testing.T) {
	steps, err := Parse(document)
	if err != nil || len(steps) != 3 {
		t.Fatalf("%v %+v", err, steps)
	}
	for i, want := range []Step{
		{4, "first --flag", []string{"a … c", "", "  two blanks", "> typed"}}, {9, "second", nil}, {19, "third", []string{"…", "end"}},
	} {
		if got := steps[i]; got.Line != want.Line || got.Command != want.Command || strings.Join(got.Output, "|") != strings.Join(want.Output, "|") {
			t.Errorf("step %d is %+v, want %+v", i, got, want)
		}
	}
	if !steps[0].Typed() || steps[1].Typed() {
		t.Error("what is typed is not seen")
	}
	if _, err := Parse("```console\nlost\n$ a\n```\n"); err == nil {
		t.Error("output before any command is no error")
	}
}

func TestWhatACommandShowsIsComparedLineByLine(t *testing.T) {
	for _, c := range []struct {
		output, screen string
		difference     string // "": none
	}{
		{"a\nb", "a\nb\n", ""},
		{"a … c (…)", "a 1.5 c (x)\n", ""},
		{"a.c", "abc\n", `line 2: the document shows "a.c", and the command "abc"`},
		{"a\nb", "a\n", `line 3: the document shows "b", and the command nothing more`},
		{"a", "a\nb\n", `line 3: the document shows nothing more, and the command "b"`},
		{"", "", ""},
		{"", "a\n", `line 2: the document shows nothing more, and the command "a"`},
		{"a\n\nb", "a\nb\n", `line 3: the document shows "", and the command "b"`},
		{"…\nend", "1\n2\nend\n", ""},
		{"…\nend", "end\n", ""},
		{"…\nend", "1\n2\n", `line 3: the document shows "end", and the command "1"`},
		{"Paste:\n> 4/0A\nok", "Paste:\n> code\nok\n", ""},
		{"Paste:\n> 4/0A\nok", "Paste:\nok\n", `line 3: the document shows "> 4/0A", and the command "ok"`},
	} {
		step := Step{Line: 1}
		if c.output != "" {
			step.Output = strings.Split(c.output, "\n")
		}
		if got := step.Compare(c.screen); got != c.difference {
			t.Errorf("%q and %q: %q, want %q", c.output, c.screen, got, c.difference)
		}
	}
}
