package injecttoken_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module          = "github.com/caddytoken/inject-token"
	refresherPath   = module + "/refresher"
	tokensourcePath = module + "/tokensource"
	caddyModule     = "github.com/caddyserver/"
)

func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	command := exec.Command("go", args...)
	var problem strings.Builder
	command.Stderr = &problem
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, problem.String())
	}
	return out
}

func dependencies(t *testing.T, path string) []string {
	t.Helper()
	return strings.Fields(string(goCommand(t, "list", "-deps", path)))
}

// ours returns those of this module, without the package itself.
func ours(paths []string, itself string) []string {
	var out []string
	for _, path := range paths {
		if path != itself && (path == module || strings.HasPrefix(path, module+"/")) {
			out = append(out, path)
		}
	}
	return out
}

func TestImportsGoOneWay(t *testing.T) {
	for path, want := range map[string][]string{
		module:          {refresherPath, tokensourcePath},
		refresherPath:   {tokensourcePath},
		tokensourcePath: nil,
	} {
		got := ours(dependencies(t, path), path)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s depends on %v, want %v", path, got, want)
		}
	}
}

func TestOnlyTheRootKnowsCaddy(t *testing.T) {
	isCaddy := func(path string) bool { return strings.HasPrefix(path, caddyModule) }
	if !slices.ContainsFunc(dependencies(t, module), isCaddy) {
		t.Error("the root does not depend on Caddy: this test looks for the wrong thing")
	}
	for path := range strings.FieldsSeq(string(goCommand(t, "list", "./..."))) {
		if path == module || strings.HasPrefix(path, module+"/cmd/") {
			continue
		}
		if deps := dependencies(t, path); slices.ContainsFunc(deps, isCaddy) {
			t.Errorf("%s depends on %s", path, deps[slices.IndexFunc(deps, isCaddy)])
		}
	}
}

func TestTheRefresherKnowsOfTheTokenSourceOnlyItsTokensErrorsAndPermits(t *testing.T) {
	files, err := filepath.Glob("refresher/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	used := make(map[string]bool)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := selector.X.(*ast.Ident); ok && x.Name == "tokensource" {
					used[selector.Sel.Name] = true
				}
			}
			return true
		})
	}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, []string{"Error", "Token", "WithPermit"}) {
		t.Errorf("it uses %v of tokensource", got)
	}
}

// What go.mod requires is merged into every Caddy that has this module.
func TestTheModuleRequiresOnlyWhatItNeedsItself(t *testing.T) {
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
		Replace []any
		Tool    []any
	}
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	var direct []string
	for _, required := range mod.Require {
		if !required.Indirect {
			direct = append(direct, required.Path)
		}
	}
	slices.Sort(direct)
	want := []string{"github.com/caddyserver/caddy/v2", "github.com/caddyserver/certmagic", "github.com/dustin/go-humanize", "github.com/go-jose/go-jose/v4", "github.com/spf13/cobra", "go.uber.org/zap", "golang.org/x/net", "golang.org/x/oauth2", "golang.org/x/term", "rsc.io/qr"}
	if !slices.Equal(direct, want) {
		t.Errorf("go.mod requires %v, want %v", direct, want)
	}
	if len(mod.Replace) > 0 || len(mod.Tool) > 0 {
		t.Errorf("go.mod has replacements %v and tools %v", mod.Replace, mod.Tool)
	}
}
