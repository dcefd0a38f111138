package injecttoken

import (
	"maps"
	"reflect"
	"slices"
)

// placeOptions are the options of a transport that say where the token goes.
func placeOptions() map[string]blockOption[Transport] {
	options := make(map[string]blockOption[Transport])
	for _, name := range []string{"header", "query", "basic"} {
		if option, ok := transportOptions[name]; ok {
			options[name] = blockOption[Transport](option)
		}
	}
	return options
}

// saysWhere says whether the user wrote where the token goes.
func (t *Transport) saysWhere() bool { return len(t.Headers) > 0 || len(t.Query) > 0 }

// newInjection returns where the token goes: as it is written, else as the
// provider of the source wants it, else where it usually does.
func (t *Transport) newInjection(app *App) (*injection, *mistake) {
	if t.saysWhere() {
		return newInjection(t.Headers, t.Query)
	}
	names := t.possibleSources(app)
	places := new(Transport)
	for i, name := range names {
		wanted := new(Transport)
		if running := app.running[name]; running != nil && running.config.inject != nil {
			wanted = running.config.inject
		}
		if i > 0 && !reflect.DeepEqual(places, wanted) {
			return nil, wrong("header", "the providers of the token sources %s and %s want the token in different places; write here where it goes (header or query), or use a site for each", names[0], name)
		}
		places = wanted
	}
	return newInjection(places.Headers, places.Query)
}

// possibleSources are the sources of which a request of this transport may
// carry the token.
func (t *Transport) possibleSources(app *App) []string {
	names := slices.Collect(maps.Values(t.UpstreamSources))
	for name := range app.Sources {
		if name == t.Source || isTemplate(t.Source) && matchesAny(name, t.SourcePatterns) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
