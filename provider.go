package injecttoken

import (
	"regexp"
	"slices"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// Provider is a provider of the built-in list, with what its entry leaves open.
type Provider struct {
	// Its name there, as `caddy token-source providers` shows it. Required.
	Name string `json:"name"`

	// What the entry leaves open, by name, such as the host of your account. A
	// value is letters, digits, `.`, `_` and `-`, with a port if need be, or a
	// placeholder.
	Values map[string]string `json:"values,omitempty"`
}

// providerValue is strict, so that a value cannot change where in a URL it
// stands.
var providerValue = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(:[0-9]{1,5})?$`)

// preset returns the entry of the provider.
func (p *Provider) preset() (*preset, *mistake) {
	entry, ok := presets()[p.Name]
	if !ok {
		return nil, unknownPreset(p.Name)
	}
	return entry, nil
}

// unknownPreset is the mistake of a name that the list does not have. Most are
// not worth a list of all.
func unknownPreset(name string) *mistake {
	if best := nearest(name, presetNames()); best != "" {
		return wrong("provider", "no provider is named %q; did you mean %s?", name, best)
	}
	return wrong("provider", "this provider is not built in; caddy token-source providers lists those that are, and without provider the options are written out")
}

// check finds what is wrong with the values that are written.
func (p *Provider) check(entry *preset) *mistake {
	for _, name := range sortedNames(p.Values) {
		value, known := entry.value(name)
		if !known {
			return wrong("provider "+name, "%s has no such value; %s", p.Name, didYouMean(name, entry.valueNames()))
		}
		literal := p.Values[name]
		for _, placeholder := range tokensource.Placeholders(literal) {
			if !isRuntime(placeholder) {
				return wrong("provider "+name, "unknown placeholder in braces; there are {env.*} and {file.*}")
			}
			literal = strings.ReplaceAll(literal, "{"+placeholder+"}", "x")
		}
		if !providerValue.MatchString(literal) {
			return wrong("provider "+name, "letters, digits, dots, _ and - can stand here, and no https:// and no path, such as %s", value.example())
		}
		if suffix := entry.suffixOf(name); suffix != "" && strings.HasSuffix(literal, suffix) {
			return wrong("provider "+name, "%s is appended by itself; write %s", suffix, strings.TrimSuffix(literal, suffix))
		}
	}
	return nil
}

// suffixOf returns what follows a value in the hosts of the entry, such as
// .example.org; "": nothing does.
func (p *preset) suffixOf(name string) string {
	for _, line := range p.written {
		_, rest, found := strings.Cut(line, "://{"+name+"}")
		if suffix, _, _ := strings.Cut(rest, "/"); found && strings.HasPrefix(suffix, ".") {
			return suffix
		}
	}
	return ""
}

// filled returns the source with the words of its provider's entry where it has
// none of its own. A source that names no provider is returned as it is.
func (s *Source) filled() (*Source, *mistake) {
	if s.Provider == nil {
		return s, nil
	}
	entry, m := s.Provider.preset()
	if m != nil {
		return nil, m
	}
	return s.filledFrom(entry)
}

func (s *Source) filledFrom(entry *preset) (*Source, *mistake) {
	if m := s.Provider.check(entry); m != nil {
		return nil, m
	}
	f := &filling{values: entry.valuesWith(s.Provider.Values)}
	own := treeOf(s)
	delete(own, "provider")
	out := new(Source)
	f.objects(entry.treeFor(s), own, false).into(out)
	if entry.inject != nil {
		out.inject = new(Transport)
		f.replaced(treeOf(entry.inject)).(tree).into(out.inject)
	}
	for _, value := range entry.values {
		if slices.Contains(f.missing, value.name) {
			return nil, wrong("provider", "%s needs the value %s: %s; write provider %s { %s VALUE }", entry.name, value.name, value.text, entry.name, value.name)
		}
	}
	return out, nil
}

// filledSources returns the sources with the words of their providers. Those that
// are wrong are found elsewhere, and stay as they are.
func filledSources(all map[string]*Source) map[string]*Source {
	out := make(map[string]*Source, len(all))
	for name, s := range all {
		out[name] = s
		if s == nil {
			continue
		}
		if filled, m := s.filled(); m == nil {
			out[name] = filled
		}
	}
	return out
}

// checked returns the source filled, or what is wrong with it.
func (s *Source) checked() (*Source, *mistake) {
	filled, m := s.filled()
	if m != nil {
		return nil, m
	}
	m = filled.check()
	if m == nil || s.Provider == nil {
		return filled, m
	}
	entry, _ := s.Provider.preset()
	option, _, _ := strings.Cut(m.option, " ")
	if treeOf(entry.source).has(option) && !treeOf(s).has(option) {
		m = &mistake{"provider", m.text + " (with the values of provider " + entry.name + ")"}
	}
	return nil, m
}

// treeFor returns the entry's words as far as they are of use to a source: those
// about other grants are not.
func (p *preset) treeFor(s *Source) tree {
	words := *p.source
	if s.Grant != "" {
		words.Grant = s.Grant
	}
	out := treeOf(&words)
	grant, known := tokensource.GrantByName(words.Grant)
	if !known {
		return out // which is found later
	}
	given := words.given()
	for option := range given {
		if !slices.Contains(grant.Takes, option) && !slices.Contains(grant.Needs, option) {
			out.drop(option)
		}
	}
	if request, ok := out["token_request"].(tree); ok && grant.BeginsWithRefreshToken() {
		delete(request, "params")
	}
	out.leaveAddresses(s)
	if !given["scope"] && len(s.Scopes) == 0 {
		out.drop("scope_separator")
	}
	if !s.provesItselfBy(words.ClientAuth, grant) {
		out.drop("client_auth")
	}
	return out
}

// leaveAddresses takes out the addresses of an entry that do not belong to the
// endpoints that a user has written: what one of them has issued is not sent to
// another's.
func (t tree) leaveAddresses(s *Source) {
	if s.Issuer != "" {
		for _, option := range []string{"token_url", "authorize_url", "device_url"} {
			t.drop(option)
		}
	}
	if s.Issuer != "" || s.TokenURL != "" {
		t.drop("revoke_url")
		if request, ok := t["refresh_request"].(tree); ok {
			delete(request, "url")
		}
	}
}

// provesItselfBy says whether the client of a source can use the client
// authentication that its provider's entry has. What a person begins needs no
// secret at most providers, and who has a key needs none.
func (s *Source) provesItselfBy(method string, grant tokensource.Grant) bool {
	own := s.given()
	if strings.HasPrefix(method, "client_secret_") {
		keyed := own["private_key"] || own["client_assertion"]
		return own["client_secret"] || !keyed && !grant.Person
	}
	return !own["client_secret"]
}
