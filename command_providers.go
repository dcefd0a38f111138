package injecttoken

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

func providersCommand() *cobra.Command {
	cmd := command("providers [NAME] [--json]", "Lists the providers that are built in, or explains one",
		`
Lists the providers that the option provider of a source knows, or explains one: the
options it stands for, the values it needs, and a Caddyfile to begin with. No Caddy has
to run, and nobody is asked.
`+exitCodes,
		`  caddy token-source providers
  caddy token-source providers salesforce`,
		cobra.MaximumNArgs(1), runProviders)
	cmd.Flags().Bool("json", false, "Print JSON")
	return cmd
}

func runProviders(fl caddycmd.Flags) (int, error) {
	name := fl.Arg(0)
	if name == "" {
		if fl.Bool("json") {
			var all []*explainedPreset
			for _, name := range presetNames() {
				all = append(all, presets()[name].explained())
			}
			return printJSON(all)
		}
		printPresets()
		return caddy.ExitCodeSuccess, nil
	}
	p, ok := presets()[name]
	if !ok {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("no provider is named %q; %s", name, didYouMean(name, presetNames()))
	}
	if fl.Bool("json") {
		return printJSON(p.explained())
	}
	p.print()
	return caddy.ExitCodeSuccess, nil
}

func printJSON(v any) (int, error) {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// explainedPreset is an entry of the list as programs read it. The texts of the
// source hold its values as {NAME}.
type explainedPreset struct {
	Name          string           `json:"name"`
	Title         string           `json:"title"`
	Category      string           `json:"category"`
	Documentation []string         `json:"documentation"`
	Grants        []string         `json:"grants"`
	Values        []explainedValue `json:"values,omitempty"`
	Notes         []string         `json:"notes,omitempty"`
	Source        *Source          `json:"source"`
	Inject        tree             `json:"inject,omitempty"`
	Caddyfile     string           `json:"caddyfile"`
}

type explainedValue struct {
	Name    string `json:"name"`
	Text    string `json:"text"`
	Default string `json:"default,omitempty"`
}

func (p *preset) explained() *explainedPreset {
	out := &explainedPreset{
		Name: p.name, Title: p.title, Category: p.category, Documentation: p.documentation, Grants: p.grants(),
		Notes: p.notes, Source: p.source, Caddyfile: p.caddyfile(),
	}
	for _, v := range p.values {
		out.Values = append(out.Values, explainedValue{v.name, v.text, v.fallback})
	}
	if p.inject != nil {
		out.Inject = treeOf(p.inject)
	}
	return out
}

// printPresets lists the entries by category.
func printPresets() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { _ = w.Flush() }()
	for i, category := range presetCategories {
		if i > 0 {
			_, _ = fmt.Fprintln(w)
		}
		_, _ = fmt.Fprintf(w, "%s\n", category.title)
		for _, name := range presetNames() {
			if p := presets()[name]; p.category == category.name {
				_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", name, p.title, strings.Join(p.grants(), ", "))
			}
		}
	}
}

// print explains the entry.
func (p *preset) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%s:\t%s\n", name, value) }
	line("name", p.name)
	line("title", p.title)
	line("category", categoryTitle(p.category))
	for _, address := range p.documentation {
		line("documentation", address)
	}
	line("grants", strings.Join(p.grants(), ", ")+p.chosenGrant())
	for _, v := range p.values {
		text := v.text
		if v.fallback != "" {
			text += "; default " + v.fallback
		}
		line("value "+v.name, text)
	}
	for _, note := range p.notes {
		line("note", note)
	}
	_ = w.Flush()
	fmt.Print("\nIt stands for these options; each that you write goes before:\n\n")
	for _, written := range p.written {
		fmt.Println("  " + strings.ReplaceAll(written, "\t", "  "))
	}
	if places := p.places(); len(places) > 0 {
		fmt.Print("\nIts API takes the token here, unless you write another place in inject_token:\n\n")
		for _, place := range places {
			fmt.Println("  " + place)
		}
	}
	fmt.Print("\nA Caddyfile to begin with:\n\n" + p.caddyfile())
}

// places are the options of inject_token that say where the token goes.
func (p *preset) places() (lines []string) {
	if p.inject == nil {
		return nil
	}
	for _, h := range p.inject.Headers {
		line := "header " + h.Field
		if h.Format != "" {
			line += " \"" + h.Format + "\""
		}
		lines = append(lines, line)
	}
	for _, param := range p.inject.Query {
		lines = append(lines, "query "+param)
	}
	if b := p.inject.Basic; b != nil {
		lines = append(lines, "basic "+b.Username+" "+b.Password)
	}
	return lines
}

func (p *preset) chosenGrant() string {
	if len(p.also) == 0 {
		return ""
	}
	return " (the first, unless you write grant)"
}
