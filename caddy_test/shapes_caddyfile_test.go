package caddy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// shapeText is a source on its way into a Caddyfile.
type shapeText struct {
	provider string // the provider's address
	at       string // … of this shape
	url      string // the token_url

	options                []string
	tokenForm, refreshForm string   // method and encoding
	token, refresh         []string // lines of the blocks
}

func (c *shapeText) option(lines ...string) { c.options = append(c.options, lines...) }

// source is the Caddyfile's source of a shape. Further lines are added to its
// end.
func (s *shape) source(provider string, further ...string) string {
	c := &shapeText{provider: provider, at: provider + "/" + s.name, url: provider + "/" + s.name + "/token"}
	for _, p := range requestProperties {
		for _, choice := range p.choices {
			if choice.name == s.of[p.name] && choice.write != nil {
				choice.write(s, c)
			}
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "source %s {\n\tgrant %s\n\ttoken_url %s\n", s.name, s.of["grant"], c.url)
	if s.of["expiry"] == "default" {
		c.option("default_lifetime " + s.lifetime(1).String())
	}
	if s.of["schedule"] == "half" {
		c.option("refresh_at 50%")
	}
	c.option("timeout 2m") // hundreds ask at once, and some are kept waiting
	for _, line := range slices.Concat(c.options, further) {
		fmt.Fprintf(&out, "\t%s\n", line)
	}
	block(&out, "token_request", c.tokenForm, c.token)
	block(&out, "refresh_request", c.refreshForm, c.refresh)
	block(&out, "token_response", "", s.responseLines())
	return out.String() + "}\n"
}

// block writes an option that has a block, where there is anything to say.
func block(out *strings.Builder, option, args string, lines []string) {
	if args == "" && len(lines) == 0 {
		return
	}
	fmt.Fprintf(out, "\t%s %s {\n\t\t%s\n\t}\n", option, strings.TrimSpace(args), strings.Join(lines, "\n\t\t"))
}

// sites is the Caddyfile's site: a line for each placement, and the request says
// of which source. (A line for each source would be hundreds.)
func sites(shapes []*shape, api string) string {
	var out strings.Builder
	for _, inject := range slices.Sorted(maps.Keys(placements)) {
		var names, paths []string
		for _, s := range shapes {
			if s.of["inject"] == inject {
				names, paths = append(names, s.name), append(paths, "/"+s.name+"/*")
			}
		}
		fmt.Fprintf(&out, "@%s path %s\ninject_token @%[1]s {http.request.uri.path.0} %[3]s {\n\tsources %s\n\t%s\n}\n",
			inject, strings.Join(paths, " "), api, strings.Join(names, " "), strings.Join(placements[inject].write, "\n\t"))
	}
	return out.String()
}
