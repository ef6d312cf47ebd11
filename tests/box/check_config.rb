# check_config.rb FOLDER PROVIDER [FOLDER PROVIDER...]: what the configuration classes of Vagrant and its plugins say of
# each Vagrantfile for a provider that cannot run here (`vagrant validate` looks at the provider in use only). Prints a
# list of complaints for each pair, as JSON.
#
# Plugins that cannot be installed here have no class to ask: of those, plugin_settings.json has the names that theirs
# takes, and nothing tells whether a value is right.
require "json"
require "tmpdir"
require "vagrant"
require "vagrant-libvirt"

# Usable everywhere, since nothing is asked of it.
class Nowhere < Vagrant.plugin("2", :provider)
  def self.usable?(_raise_error = false) = true
  def action(_name) = nil
  def ssh_info = nil
  def state = Vagrant::MachineState.new(:not_created, "", "")
end

JSON.parse(File.read(File.join(__dir__, "plugin_settings.json"))).each do |provider, told|
  named = Class.new(Vagrant.plugin("2", :config)) do
    attr_accessor(*told["settings"])
    define_method(:initialize) { @vmx = {} }
    define_method(:validate) { |_machine| { "settings" => _detected_errors } }
  end
  Class.new(Vagrant.plugin("2")) do
    name "names of #{provider}"
    config(provider.to_sym, :provider) { named }
  end
end

def complaints(folder, provider)
  known = Vagrant.plugin("2").manager.provider_configs.to_hash.keys
  abort "Vagrant knows no settings of #{provider}, but of #{known}" unless known.include?(provider)
  environment = Vagrant::Environment.new(cwd: folder, ui_class: Vagrant::UI::Silent)
  settings = environment.vagrantfile.machine_config(:default, provider, nil, nil, false)[:config]
  Dir.mktmpdir do |data|
    machine = Vagrant::Machine.new(
      :default, provider, Nowhere, settings.vm.get_provider_config(provider), {}, settings,
      Pathname.new(data), nil, environment, environment.vagrantfile
    )
    settings.validate(machine).values.flatten
  end
end

puts JSON.generate(ARGV.each_slice(2).map { |folder, provider| complaints(folder, provider.to_sym) })
