package injecttoken

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddytoken/inject-token/tokensource"
)

// eachPreset runs a test for every entry of the list.
func eachPreset(t *testing.T, test func(t *testing.T, p *preset)) {
	t.Helper()
	list, err := parsePresets(presetData)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 70 {
		t.Errorf("the list has %d entries only", len(list))
	}
	for _, name := range sortedNames(list) {
		t.Run(name, func(t *testing.T) { test(t, list[name]) })
	}
}

func TestEveryEntrySaysWhatItIsAndWhereItComesFrom(t *testing.T) {
	titles := make(map[string]string)
	eachPreset(t, func(t *testing.T, p *preset) {
		if m := checkSourceName(p.name); m != nil {
			t.Error(m)
		}
		if other, twice := titles[p.title]; twice || p.title == "" {
			t.Errorf("its title is %q, as of %q", p.title, other)
		}
		titles[p.title] = p.name
		if strings.HasPrefix(categoryTitle(p.category), "(") {
			t.Errorf("there is no category %q", p.category)
		}
		if len(p.documentation) == 0 {
			t.Error("no documentation is named")
		}
		for _, address := range slices.Concat(p.documentation, []string{p.withExamples(p.api)}) {
			u, err := url.Parse(address)
			if err != nil || address != "" && (u.Scheme != "https" || u.Host == "" || u.Fragment != "" || u.User != nil) {
				t.Errorf("%q is no https address (%v)", address, err)
			}
		}
		if u, _ := url.Parse(p.withExamples(p.api)); u.Path != "" {
			t.Errorf("an upstream has no path, as %s has", p.api)
		}
		for _, note := range p.notes {
			if !strings.HasSuffix(note, ".") || len(note) > 180 {
				t.Errorf("this note is no short sentence: %s", note)
			}
		}
		if p.source == nil || p.source.Grant == "" {
			t.Fatal("its source has no grant")
		}
		for _, grant := range p.also {
			if grant == p.source.Grant {
				t.Errorf("it says its grant %s twice", grant)
			}
		}
		if own := []string{"jwt_bearer", "custom"}; p.source.ClientAuth == "" && !slices.Contains(own, p.source.Grant) {
			t.Error("it does not say how a client proves itself")
		}
	})
}

func TestTheListIsSortedAndItsCategoriesAreAllInUse(t *testing.T) {
	names := regexp.MustCompile(`(?m)^(\S+) \{$`).FindAllStringSubmatch(string(presetData), -1)
	for i := 1; i < len(names); i++ {
		if names[i-1][1] >= names[i][1] {
			t.Errorf("%s stands before %s", names[i-1][1], names[i][1])
		}
	}
	if len(names) != len(presets()) {
		t.Errorf("%d entries begin a line, and %d are read", len(names), len(presets()))
	}
	for _, category := range presetCategories {
		n := 0
		for _, p := range presets() {
			if p.category == category.name {
				n++
			}
		}
		if n < 2 {
			t.Errorf("the category %s has %d entries", category.name, n)
		}
	}
	if formatted := caddyfile.Format(presetData); string(formatted) != string(presetData) {
		t.Error("caddy fmt would format the list otherwise")
	}
}

// textsOf returns all texts of a tree.
func textsOf(v any) (texts []string) {
	switch v := v.(type) {
	case tree:
		for _, name := range sortedNames(v) {
			texts = append(texts, textsOf(v[name])...)
		}
	case []any:
		for _, one := range v {
			texts = append(texts, textsOf(one)...)
		}
	case string:
		texts = append(texts, v)
	}
	return texts
}

var inBraces = regexp.MustCompile(`\{([^}]*)\}`)

func TestEveryEntryUsesTheValuesThatItDeclaresAndNoOthers(t *testing.T) {
	eachPreset(t, func(t *testing.T, p *preset) {
		used := make(map[string]bool)
		for _, text := range textsOf(treeOf(p.source)) {
			for _, m := range inBraces.FindAllStringSubmatch(text, -1) {
				used[m[1]] = true
				if _, declared := p.value(m[1]); !declared {
					t.Errorf("{%s} is not declared", m[1])
				}
			}
		}
		for _, m := range inBraces.FindAllStringSubmatch(p.api, -1) {
			if _, declared := p.value(m[1]); !declared {
				t.Errorf("{%s} is not declared", m[1])
			}
		}
		for _, v := range p.values {
			if !used[v.name] {
				t.Errorf("nothing in source uses the value %s", v.name)
			}
			if !regexp.MustCompile(`^[a-z]+$`).MatchString(v.name) {
				t.Errorf("%q is no name of a value", v.name)
			}
			if !providerValue.MatchString(v.example()) {
				t.Errorf("the text of %s ends in no example (such as …): %q", v.name, v.text)
			}
		}
	})
}

// hostByValue is the host of a URL in which a value stands for whole labels, at
// either end or between dots.
var hostByValue = regexp.MustCompile(`^https://([a-z0-9-]+|\{[a-z]+\})(\.([a-z0-9-]+|\{[a-z]+\}))*(/|$)`)

func TestEveryAddressOfAnEntryIsHTTPSAndOneOfTheProviders(t *testing.T) {
	eachPreset(t, func(t *testing.T, p *preset) {
		s := p.source
		addresses := []string{s.TokenURL, s.AuthorizeURL, s.DeviceURL, s.RevokeURL, s.Issuer}
		if s.RefreshRequest != nil {
			addresses = append(addresses, s.RefreshRequest.URL)
		}
		n := 0
		for _, address := range addresses {
			if address == "" {
				continue
			}
			n++
			if !hostByValue.MatchString(address) {
				t.Errorf("a value may stand for whole labels of a host alone, and addresses are https: %s", address)
			}
			if strings.ContainsAny(address, "#@ ") {
				t.Errorf("a part of %s does not belong there", address)
			}
		}
		if n == 0 {
			t.Error("it has no address")
		}
		if s.Issuer == "" && s.TokenURL == "" {
			t.Error("it has no token endpoint")
		}
	})
}

// exampleSource is a source of this provider for one of its grants.
func exampleSource(p *preset, grantName string) *Source {
	s := &Source{Provider: &Provider{Name: p.name, Values: map[string]string{}}, ClientID: "a"}
	for _, v := range p.values {
		s.Provider.Values[v.name] = v.example()
	}
	if grantName != p.source.Grant {
		s.Grant = grantName
	}
	switch {
	case p.source.ClientAuth == "private_key_jwt" || grantName == "jwt_bearer":
		s.PrivateKey = "{file.key}"
	case strings.HasPrefix(p.source.ClientAuth, "client_secret_"):
		s.ClientSecret = "b"
	}
	grant, _ := tokensource.GrantByName(grantName)
	for option, field := range map[string]*string{"username": &s.Username, "password": &s.Password, "refresh_token": &s.RefreshToken} {
		if slices.Contains(grant.Needs, option) {
			*field = "c"
		}
	}
	if slices.Contains(grant.Needs, "subject_token") {
		s.SubjectToken = "d"
	}
	if grantName == "custom" {
		s.ClientID, s.ClientSecret = "", ""
	}
	return s
}

func TestEveryEntryIsASourceWithoutMistakesForEachOfItsGrants(t *testing.T) {
	eachPreset(t, func(t *testing.T, p *preset) {
		for _, grant := range p.grants() {
			if _, known := tokensource.GrantByName(grant); !known {
				t.Fatalf("there is no grant %s", grant)
			}
			filled, m := exampleSource(p, grant).checked()
			if m != nil {
				t.Errorf("grant %s: %v", grant, m)
				continue
			}
			for _, text := range textsOf(treeOf(filled)) {
				if text != "{file.key}" && strings.ContainsAny(text, "{}") {
					t.Errorf("grant %s: a value is left in %s", grant, text)
				}
			}
			if _, err := filled.obtainer(nil, nil); err != nil {
				t.Errorf("grant %s: %v", grant, err)
			}
			if _, m := (&Transport{Source: p.name}).newInjection(map[string]*Source{p.name: filled}); m != nil {
				t.Errorf("grant %s: %v", grant, m)
			}
		}
		if p.inject == nil {
			return
		}
		if !p.inject.saysWhere() {
			t.Error("its inject says nothing")
		}
		if _, m := newInjection(p.inject.Headers, p.inject.Query, p.inject.Basic); m != nil {
			t.Error(m)
		}
	})
}

func TestEveryValueOfEveryEntryCanBeTheUsers(t *testing.T) {
	eachPreset(t, func(t *testing.T, p *preset) {
		for _, v := range p.values {
			for _, value := range []string{"zz9", "{env.ZZ9}", "{file./run/zz9}", "a{env.ZZ9}.b"} {
				s := exampleSource(p, p.source.Grant)
				s.Provider.Values[v.name] = value
				filled, m := s.checked()
				if m != nil {
					t.Errorf("%s %s: %v", v.name, value, m)
					continue
				}
				if !slices.ContainsFunc(textsOf(treeOf(filled)), func(text string) bool { return strings.Contains(text, value) }) {
					t.Errorf("%s %s does not stand in the source", v.name, value)
				}
			}
			if v.fallback == "" {
				s := exampleSource(p, p.source.Grant)
				delete(s.Provider.Values, v.name)
				if _, m := s.checked(); m == nil || !strings.Contains(m.text, "needs the value "+v.name) {
					t.Errorf("without the value %s: %v", v.name, m)
				}
			}
		}
	})
}

func TestTheCaddyfileToBeginWithIsOne(t *testing.T) {
	eachPreset(t, func(t *testing.T, p *preset) {
		text := p.caddyfile()
		if _, err := adapt(text); err != nil {
			t.Errorf("%v:\n%s", err, text)
		}
		if formatted := caddyfile.Format([]byte(text)); string(formatted) != text {
			t.Errorf("caddy fmt would write\n%s", formatted)
		}
	})
}
